"""What an aggregator is: it turns a round's uploads into a consensus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.privacy.events import Event, Uncounted
from fedkd.registry import Registry
from fedkd.types import Consensus, Knowledge, Space


@dataclass(frozen=True, eq=False, kw_only=True)
class Sums:
    """Running sums over uploads, dense over the proxy set.

    Attributes:
        scores: float64 ``[proxy, classes]``, weighted sum of scores.
        mass: float64 ``[proxy]``, sum of weights.
        keepers: int64 ``[proxy]``, number of uploads that hold the row.
        row_temperatures: float64 ``[proxy]``, weighted sum of told temperatures, or None.
    """

    scores: Tensor
    mass: Tensor
    keepers: Tensor
    space: Space
    temperature: float
    row_temperatures: Tensor | None = None


class Aggregator(ABC):
    """Folds uploads into a consensus; the order of uploads is irrelevant.

    Attributes:
        spaces: the score spaces it can average.
        linear: ``partial`` is ``mean.weighted_sums`` and ``merge`` adds, so that :meth:`finish`
            may be given sums that were taken elsewhere, under masks.
        reads_row_temperatures: uploads may tell a temperature for each row.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset(Space)
    linear: ClassVar[bool] = False
    reads_row_temperatures: ClassVar[bool] = True

    @abstractmethod
    def partial(self, upload: Knowledge, *, n_rows: int) -> Sums:
        """Return the state that holds this one upload."""

    @abstractmethod
    def merge(self, left: Sums, right: Sums) -> Sums:
        """Return the state that holds the uploads of both; associative and commutative."""

    @abstractmethod
    def finish(self, state: Sums, *, rng: torch.Generator) -> Consensus:
        """Return the consensus; rows that nobody kept are absent."""

    def event(self, *, n_rows: int) -> Event:
        """Return what one consensus over ``n_rows`` proxy rows tells about a whole client.

        The unit is one client whose upload is replaced by any other; the neighboring
        consensus is seen by everybody but the server, which is trusted to add the noise.
        """
        return Uncounted("the consensus carries no noise")

    def aggregate(
        self, uploads: Sequence[Knowledge], *, n_rows: int, rng: torch.Generator
    ) -> Consensus:
        """Fold one round's uploads; ValueError when spaces or temperatures differ or none came."""
        if not uploads:
            raise ValueError("no uploads to aggregate")
        kinds = {(u.space, u.temperature, u.row_temperatures is None) for u in uploads}
        if len(kinds) > 1:
            raise ValueError("uploads mix score spaces or temperatures; they cannot be averaged")
        parts = (self.partial(upload, n_rows=n_rows) for upload in uploads)
        return self.finish(reduce(self.merge, parts), rng=rng)


aggregators = Registry("aggregator", Aggregator, package="fedkd.aggregators")
