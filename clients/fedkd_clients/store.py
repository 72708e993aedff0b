"""Where a client's model, optimiser and proxy set stay between two messages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

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
from fedkd.types import Consensus, Knowledge, Upload
from fedkd_clients.masking import Masking
from fedkd_clients.state import ClientState


class ClientStore(Protocol):
    """Keeps client states by client id.

    Attributes:
        keeps_answers: whether a client's last upload is kept, so that a server that was started
            again can be sent the very same, without another round of training.
    """

    keeps_answers: bool

    def holds(self, client: int) -> bool:
        """Return whether the client's state was kept."""
        ...

    def get(self, client: int, state: ClientState) -> None:
        """Fill a new client's state from what :meth:`put` kept."""
        ...

    def put(self, client: int, state: ClientState) -> None:
        """Keep the state, its draft included; it survives whatever happens to this process."""
        ...


class MemoryStore:
    """Writes nothing: the learner's live objects are all there is, and they end with it."""

    keeps_answers = False

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
    """Fill a new client's state, and return the version of its proxy set.

    Raises:
        ValueError: the row is another model's, or a part is not what it should be.
    """
    tensors, facts = parts["state"].tensors, parts["state"].facts
    row = state.room()
    if tensors["row"].shape != row.shape:
        raise ValueError(
            f"{who}: {len(tensors['row'])} numbers are stored, and this model with its "
            f"optimiser has {len(row)}; the scenario has changed, use another folder"
        )
    row.copy_(tensors["row"])
    state.move(row)
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
