"""What an aggregator is: it turns a round's uploads into a consensus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from fedkd.privacy.events import Event, Uncounted
from fedkd.registry import Registry
from fedkd.types import Consensus, Knowledge, Space


@dataclass(eq=False, kw_only=True)
class Lane:
    """Sums over the last few uploads, all of whose weights are 1.

    Attributes:
        scores: float32 ``[proxy, classes]``.
        keepers: float32 ``[proxy]``, the sum of the ones.
        uploads: how many there are.
    """

    scores: Tensor
    keepers: Tensor
    uploads: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Sums:
    """Running sums over uploads, dense over the proxy set.

    Attributes:
        scores: float64 ``[proxy, classes]``, weighted sum of scores; ``[0, classes]`` as long as
            nothing was added but to the lane.
        mass: float64 ``[proxy]``, sum of weights.
        keepers: int64 ``[proxy]``, number of uploads that hold the row.
        row_temperatures: float64 ``[proxy]``, weighted sum of told temperatures, or None.
        lane: what was added last and is in none of the above yet, or None; nobody but the module
            ``streaming`` reads sums before its ``settled`` has moved it.
    """

    scores: Tensor
    mass: Tensor
    keepers: Tensor
    space: Space
    temperature: float
    row_temperatures: Tensor | None = None
    lane: Lane | None = None


State = TypeVar("State", default=Any)
"""What uploads are folded into: :class:`Sums`, or ``ballots.Ballots``, which keeps them."""


class Aggregator(ABC, Generic[State]):
    """Folds uploads into a consensus; the order of uploads is irrelevant.

    Attributes:
        spaces: the score spaces it can average.
        linear: ``partial`` is ``streaming.weighted_sums`` and ``merge`` adds, so that
            :meth:`finish` may be given sums that were taken elsewhere, under masks.
        reads_row_temperatures: uploads may tell a temperature for each row.
        leaves_out: it may treat whole uploads as if they had not come; rows that nobody else kept
            are absent then.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset(Space)
    linear: ClassVar[bool] = False
    reads_row_temperatures: ClassVar[bool] = True
    leaves_out: ClassVar[bool] = False

    @abstractmethod
    def partial(self, upload: Knowledge, *, n_rows: int) -> State:
        """Return the state that holds this one upload."""

    @abstractmethod
    def merge(self, left: State, right: State) -> State:
        """Return the state that holds the uploads of both; associative and commutative."""

    def accumulate(self, state: State | None, upload: Knowledge, *, n_rows: int) -> State:
        """Return the state with one upload more; ``state`` is used up. None begins one.

        The same uploads in the same order give the same bits; :meth:`aggregate` goes this way.
        """
        part = self.partial(upload, n_rows=n_rows)
        return part if state is None else self.merge(state, part)

    @abstractmethod
    def finish(self, state: State, *, rng: torch.Generator) -> Consensus:
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
        state = self.accumulate(None, uploads[0], n_rows=n_rows)
        for upload in uploads[1:]:
            state = self.accumulate(state, upload, n_rows=n_rows)
        return self.finish(state, rng=rng)


aggregators = Registry("aggregator", Aggregator, package="fedkd.aggregators")
