"""Where a client's model, optimiser and proxy set stay between two messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fedkd.transport.codes import RecordError
from fedkd.transport.stored import (
    Stored,
    content_of,
    from_bytes,
    proxy_of,
    stored,
    stored_proxy,
    to_bytes,
)
from fedkd.types import Consensus, Knowledge, ProxySet, Update, Upload
from fedkd_clients.masking import Masking


def _stay() -> None:
    """Keep a row in memory."""


class Loaded(NamedTuple):
    """Where a row lies that parameters were loaded into, and what it was before."""

    rows: Tensor
    place: int
    update: Update
    before: Tensor


@dataclass(eq=False, kw_only=True)
class ClientState:
    """All that one client carries from round to round.

    Within a round a client works on a draft of its row; the row itself, in its store's memory,
    changes when the round is kept, or not at all.

    Attributes:
        kept: float32 ``[width]``, its model and optimiser (``training.packing``), as they were
            when it was last kept.
        size: numbers of the row that are parameters.
        row: the draft, or ``kept`` where there is none.
        values: a view of ``row``: its parameters.
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

    kept: Tensor
    size: int
    row: Tensor = field(init=False, repr=False)
    values: Tensor = field(init=False, repr=False)
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
        self.move(self.kept)

    def move(self, kept: Tensor) -> None:
        """Have the row somewhere else, where it was written already, and no draft."""
        self.kept = kept
        self._views = (kept[: self.size], kept[self.size :])
        self.revert()

    @property
    def rest_of_kept(self) -> Tensor:
        """What of ``kept`` is no parameter, a view."""
        return self._views[1]

    def draft(self, row: Tensor, values: Tensor | None = None) -> None:
        """Go on with a draft; ``values`` are its parameters, where that view is there already."""
        self.row, self.loaded = row, None
        self.values = row[: self.size] if values is None else values

    def revert(self) -> None:
        """Give the draft up."""
        self.row, self.values, self.loaded = self.kept, self._views[0], None

    def settle(self) -> None:
        """Make the draft what is kept."""
        if self.row is not self.kept:
            self.kept.copy_(self.row)
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


class ClientStore(Protocol):
    """Keeps client states by client id.

    Attributes:
        keeps_answers: whether a client's last upload is kept, so that a server that was started
            again can be sent the very same, without another round of training.
    """

    keeps_answers: bool

    def row(self, client: int, *, width: int, device: torch.device) -> Tensor:
        """Return memory for the client's row, which :meth:`get` or the caller fills."""
        ...

    def holds(self, client: int) -> bool:
        """Return whether the client's state was kept."""
        ...

    def get(self, client: int, state: ClientState) -> None:
        """Fill a state whose row has its memory from what :meth:`put` kept."""
        ...

    def put(self, client: int, state: ClientState) -> None:
        """Keep the state, its draft included; it survives whatever happens to this process."""
        ...


class MemoryStore:
    """Writes nothing: the learner's live objects are all there is, and they end with it."""

    keeps_answers = False

    def row(self, client: int, *, width: int, device: torch.device) -> Tensor:
        """Take memory of this process."""
        return torch.zeros(width, device=device)

    def holds(self, client: int) -> bool:
        """Know nothing."""
        return False

    def get(self, client: int, state: ClientState) -> None:
        """Have nothing to fill in."""

    def put(self, client: int, state: ClientState) -> None:
        """Leave the state where it lives."""
        state.settle()


class FileStore:
    """One safetensors file a client, replaced atomically; for clients without a lasting process.

    Args:
        folder: is made where it is missing.
        whole: whether proxy sets and last uploads are kept too. Simulations that have many clients
            in one folder leave those out, and their server sends the proxy set again.
    """

    def __init__(self, folder: Path, *, whole: bool = True) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self.keeps_answers = folder, whole

    def row(self, client: int, *, width: int, device: torch.device) -> Tensor:
        """Take memory of this process."""
        return torch.zeros(width, device=device)

    def holds(self, client: int) -> bool:
        """Look for the file."""
        return self._path(client).exists()

    def get(self, client: int, state: ClientState) -> None:
        """Read the state back; ValueError when a newer fedkd wrote it, or another model."""
        version = fill(state, from_bytes(self._path(client).read_bytes()), who=f"client {client}")
        if version is not None and self.keeps_answers:
            file = self._proxy_path(client, version)
            state.proxy = proxy_of(from_bytes(file.read_bytes())["proxy"])

    def put(self, client: int, state: ClientState) -> None:
        """Write the state, and the proxy set if this version is not on disk yet."""
        state.settle()
        if state.proxy is not None and self.keeps_answers:
            place = self._proxy_path(client, state.proxy.version)
            if not place.exists():
                _write(place, {"proxy": stored_proxy(state.proxy)})
        _write(self._path(client), parts_of(state))

    def _path(self, client: int) -> Path:
        return self._folder / f"client-{client}.safetensors"

    def _proxy_path(self, client: int, version: int) -> Path:
        return self._folder / f"client-{client}-proxy-{version}.safetensors"


def parts_of(state: ClientState) -> dict[str, Stored]:
    """Return a state as :func:`fill` reads it; of the proxy set, the version only."""
    tensors = {"row": state.row} | state.masking.tensors()
    if state.weights is not None:
        tensors["weights"] = state.weights
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    version = None if state.proxy is None else state.proxy.version
    parts = {"state": Stored(tensors=on_cpu, facts={"proxy": version, "done": state.done})}
    if state.answer is not None:
        parts["answer"] = stored(state.answer)
    if state.earlier is not None:
        parts["earlier"] = stored(state.earlier)
    return parts


def fill(state: ClientState, parts: Mapping[str, Stored], *, who: str) -> int | None:
    """Fill a state whose row has its memory, and return the version of its proxy set.

    Raises:
        ValueError: the row is another model's, or a part is not what it should be.
    """
    tensors, facts = parts["state"].tensors, parts["state"].facts
    if tensors["row"].shape != state.row.shape:
        raise ValueError(
            f"{who}: {len(tensors['row'])} numbers are stored, and this model with its "
            f"optimiser has {len(state.row)}; the scenario has changed, use another folder"
        )
    state.row.copy_(tensors["row"])
    weights = tensors.get("weights")
    state.weights = None if weights is None else weights.to(state.row.device)
    state.masking = Masking.from_tensors(tensors)
    state.done = int(facts["done"])
    state.answer = _upload(parts.get("answer"))
    earlier = _upload(parts.get("earlier"))
    state.earlier = earlier if isinstance(earlier, Knowledge) else None
    return facts["proxy"]


def _upload(part: Stored | None) -> Upload | None:
    content = None if part is None else content_of(part)
    if isinstance(content, Consensus):
        raise RecordError("a consensus is stored where an upload should be")
    return content


def _write(path: Path, parts: Mapping[str, Stored]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(to_bytes(parts))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
