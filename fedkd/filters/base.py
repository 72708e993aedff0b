"""What a filter is: it decides about which proxy rows a client may speak, never what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.features.base import Features
from fedkd.privacy.events import Event, Nothing, Uncounted
from fedkd.registry import Registry

FilterState = dict[str, Tensor]
"""What fitting left behind, as named tensors (so it can be stored without pickle)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ClientView:
    """What a filter sees of one client, all on the client's own side of the trust boundary.

    A filter that does not declare that it reads private examples is shown none: ``n`` is 0.

    Attributes:
        private: float32 ``[n, d]``, features of the private training examples.
        contributed: bool ``[n]``, True where the client gave the example to the proxy set; such
            rows are part of the model of "my data" but must not calibrate a threshold.
        proxy: float32 ``[m, d]``, features of the proxy set.
        own: bool ``[m]``, True where the proxy row is this client's own contribution.
        labels: int64 ``[n]``, private labels.
        n_classes: how many classes the task has, held or not; public.
        proxy_labels: int64 ``[m]``, true labels of the proxy rows; None unless the filter is
            declared an oracle.
    """

    private: Tensor
    contributed: Tensor
    proxy: Tensor
    own: Tensor
    labels: Tensor
    n_classes: int | None = None
    proxy_labels: Tensor | None = None

    @property
    def classes_held(self) -> int:
        """How many different classes the client holds."""
        return int(torch.unique(self.labels).numel())


class Filter(ABC):
    """Chooses proxy rows for one client. Keeps scores untouched.

    Privacy: a filter fitted on private data reveals something about that data through the rows
    it keeps. Set ``reads_private`` so that the ledger counts it; without it, it is shown none.
    """

    reads_private: ClassVar[bool] = True
    oracle: ClassVar[bool] = False
    """True when the filter looks at proxy labels: a control, never deployed."""

    def event(self) -> Event:
        """Return what the choice of rows tells about one private record, once fitted."""
        if self.reads_private or self.oracle:
            return Uncounted("the choice of proxy rows is computed from private examples")
        return Nothing()

    @property
    def space(self) -> Features | None:
        """The feature space the filter measures in, or None when it needs no geometry."""
        return None

    @abstractmethod
    def fit(self, view: ClientView, *, rng: torch.Generator) -> FilterState:
        """Learn what this client's data looks like."""

    def fit_many(
        self, views: Sequence[ClientView], rngs: Sequence[torch.Generator]
    ) -> list[FilterState]:
        """Fit many clients, each as :meth:`fit` would alone; ``rngs`` are parallel to ``views``."""
        return [self.fit(view, rng=rng) for view, rng in zip(views, rngs, strict=True)]

    @abstractmethod
    def weights(self, state: FilterState, view: ClientView) -> Tensor:
        """Return float32 ``[m]`` in [0, 1]: the client's say about each proxy row, 0 for none."""


filters = Registry("filter", Filter, package="fedkd.filters")
