"""What one client carries from round to round, and its drafts within a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from fedkd.types import Knowledge, ProxySet, Update, Upload
from fedkd_clients.masking import Masking


def _stay() -> None:
    """Keep a row in memory."""


class Loaded(NamedTuple):
    """Where a row lies that parameters were loaded into, and what it was before."""

    rows: Tensor
    place: int
    update: Update
    before: Tensor | None


@dataclass(eq=False, kw_only=True)
class ClientState:
    """All that one client carries from round to round.

    Within a round a client works on a draft of its row; the row itself, in its store's memory,
    changes when the round is kept, or not at all. A new client has no row: its first draft begins
    as that would, and what nobody reads is not drawn.

    Attributes:
        room: returns memory for a row, float32 ``[width]``.
        begin: writes to such memory what the client starts with.
        size: numbers of the row that are parameters.
        kept: its model and optimiser (``training.packing``), as they were when it was last kept;
            None for a new client.
        loaded: where ``row`` is one of a matrix of rows that were loaded and have not been given
            to anybody since: the matrix, which row, and what was loaded.
        proxy: the proxy set it was sent, or None before that.
        weights: its filter's weights for that proxy set, once fitted.
        masking: its keys and held upload, where the server sees masked sums only.
        done: the last round it finished; 0 before the first.
        answer: what it uploaded then, where the store keeps answers.
        earlier: an upload that an adversary remembers; simulations only.
        rest: lets go of the memory that the row takes until it is next read, where its store can;
            for whoever has read the rows of many clients without keeping them.
    """

    room: Callable[[], Tensor] = field(repr=False)
    begin: Callable[[Tensor], None] = field(repr=False)
    size: int
    kept: Tensor | None = None
    loaded: Loaded | None = field(default=None, init=False, repr=False)
    proxy: ProxySet | None = None
    weights: Tensor | None = None
    masking: Masking = field(default_factory=Masking)
    done: int = 0
    answer: Upload | None = None
    earlier: Knowledge | None = None
    rest: Callable[[], None] = field(default=_stay, repr=False)

    def __post_init__(self) -> None:
        """Make the views, which every round asks for."""
        self._row: Tensor | None = None
        self._values: Tensor | None = None
        if self.kept is not None:
            self.move(self.kept)

    @property
    def row(self) -> Tensor:
        """The draft, or what is kept, where there is none; a new client's is made here."""
        if self._row is None:
            row = self.room()
            self.begin(row)
            self.move(row)
            return row
        return self._row

    @property
    def values(self) -> Tensor:
        """The parameters in :attr:`row`, a view."""
        return self.row[: self.size] if self._values is None else self._values

    @property
    def drafted(self) -> bool:
        """Whether there is a draft."""
        return self._row is not self.kept

    def carried(self) -> Tensor | None:
        """Return what of the row is no parameter, a view; None of a new client, which has zeros."""
        if self._row is None:
            return None
        return self._row[self.size :] if self.drafted else self._kept_views[1]

    def copy_to(self, row: Tensor) -> None:
        """Write the row there."""
        if self._row is None:
            self.begin(row)
        else:
            row.copy_(self._row)

    def move(self, kept: Tensor) -> None:
        """Have the row somewhere else, where it was written already, and no draft."""
        self.kept = kept
        self._kept_views = (kept[: self.size], kept[self.size :])
        self.revert()

    def draft(self, row: Tensor, values: Tensor | None = None) -> None:
        """Go on with a draft; ``values`` are its parameters, where that view is there already."""
        self._row, self.loaded = row, None
        self._values = row[: self.size] if values is None else values

    def load(self, rows: Tensor, place: int, update: Update, views: tuple[Tensor, Tensor]) -> None:
        """Go on with a row of a matrix; ``views`` are the row and its parameters."""
        loaded = Loaded(rows, place, update, before=self._row)
        self.draft(*views)
        self.loaded = loaded

    def unload(self) -> Update | None:
        """Give back what was loaded, if it is still there alone, and have the row before it."""
        loaded = self.loaded
        if loaded is None:
            return None
        if loaded.before is None:
            self.revert()
        else:
            self.draft(loaded.before)
        return loaded.update

    def twin(self) -> ClientState:
        """Return a client like this one, whose model may be thrown away."""
        kept = self.room()
        self.copy_to(kept)
        return ClientState(
            room=self.room, begin=self.begin, size=self.size, kept=kept, proxy=self.proxy
        )

    def revert(self) -> None:
        """Give the draft up."""
        self._row, self.loaded = self.kept, None
        self._values = None if self.kept is None else self._kept_views[0]

    def settle(self) -> None:
        """Make the draft what is kept."""
        row = self.row
        if self.kept is None:
            kept = self.room()
            kept.copy_(row)
            self.move(kept)
        elif row is not self.kept:
            self.kept.copy_(row)
            self.revert()


def loaded_together(states: Sequence[ClientState]) -> Tensor | None:
    """Return the rows of clients that were loaded side by side, ``[clients, width]``, or None."""
    first = states[0].loaded
    if first is None:
        return None
    for n, state in enumerate(states):
        loaded = state.loaded
        if loaded is None or loaded.rows is not first.rows or loaded.place != first.place + n:
            return None
    return first.rows[first.place : first.place + len(states)]
