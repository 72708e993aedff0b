"""Where a client's model, optimiser and proxy set stay between two messages."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fedkd.types import SCHEMA, Knowledge, ProxySet, ProxySource
from fedkd_clients.masking import Masking


@dataclass(eq=False, kw_only=True)
class ClientState:
    """All that one client carries from round to round.

    Attributes:
        row: float32 ``[width]``, its model and optimiser (``training.packing``).
        proxy: the proxy set it was sent, or None before that.
        weights: its filter's weights for that proxy set, once fitted.
        masking: its keys and held upload, where the server sees masked sums only.
        earlier: an upload that an adversary remembers; simulations only, never stored.
    """

    row: Tensor
    proxy: ProxySet | None = None
    weights: Tensor | None = None
    masking: Masking = field(default_factory=Masking)
    earlier: Knowledge | None = None


class ClientStore(Protocol):
    """Keeps client states by client id."""

    def row(self, client: int, *, width: int, device: torch.device) -> Tensor:
        """Return memory for the client's row, which :meth:`get` or the caller fills."""
        ...

    def get(self, client: int, state: ClientState) -> bool:
        """Fill a state whose row has its memory; False when nothing is stored."""
        ...

    def put(self, client: int, state: ClientState) -> None:
        """Keep the state; it survives whatever happens to this process afterwards."""
        ...


class MemoryStore:
    """Writes nothing: the learner's live objects are all there is, and they end with it."""

    def row(self, client: int, *, width: int, device: torch.device) -> Tensor:
        """Take memory of this process."""
        return torch.zeros(width, device=device)

    def get(self, client: int, state: ClientState) -> bool:
        """Know nothing."""
        return False

    def put(self, client: int, state: ClientState) -> None:
        """Leave the state where it lives."""


class FileStore:
    """One safetensors file a client, replaced atomically; for clients without a lasting process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def row(self, client: int, *, width: int, device: torch.device) -> Tensor:
        """Take memory of this process."""
        return torch.zeros(width, device=device)

    def get(self, client: int, state: ClientState) -> bool:
        """Read the state back; ValueError when a newer fedkd wrote it, or another model."""
        path = self._path(client)
        if not path.exists():
            return False
        tensors, facts = _read(path)
        if tensors["row"].shape != state.row.shape:
            raise ValueError(
                f"{path.name} holds {len(tensors['row'])} numbers, and this model with its "
                f"optimiser {len(state.row)}; the scenario has changed, use another folder"
            )
        state.row.copy_(tensors["row"])
        state.weights = tensors.get("weights")
        state.masking = Masking.from_tensors(tensors)
        version = facts["proxy_version"]
        if version is not None:
            state.proxy = self._proxy(client, version)
        return True

    def put(self, client: int, state: ClientState) -> None:
        """Write the state, and the proxy set if this version is not on disk yet."""
        tensors = {"row": state.row} | state.masking.tensors()
        if state.weights is not None:
            tensors["weights"] = state.weights
        version = None
        if state.proxy is not None:
            version = state.proxy.version
            self._save_proxy(client, state.proxy)
        _write(self._path(client), tensors, {"schema": SCHEMA, "proxy_version": version})

    def _path(self, client: int) -> Path:
        return self._folder / f"client-{client}.safetensors"

    def _proxy_path(self, client: int, version: int) -> Path:
        return self._folder / f"client-{client}-proxy-{version}.safetensors"

    def _save_proxy(self, client: int, proxy: ProxySet) -> None:
        path = self._proxy_path(client, proxy.version)
        if path.exists():
            return
        tensors = {"inputs": proxy.inputs, "ids": proxy.ids}
        if proxy.owner is not None:
            tensors["owner"] = proxy.owner
        facts = {"source": proxy.source.value, "rows_per_input": proxy.rows_per_input}
        _write(path, tensors, {"schema": SCHEMA, **facts})

    def _proxy(self, client: int, version: int) -> ProxySet:
        tensors, facts = _read(self._proxy_path(client, version))
        return ProxySet(
            inputs=tensors["inputs"],
            ids=tensors["ids"],
            owner=tensors.get("owner"),
            source=ProxySource(facts["source"]),
            version=version,
            rows_per_input=facts["rows_per_input"],
        )


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(save(whole, metadata={"fedkd": json.dumps(facts)}))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get("fedkd", "{}"))
        if facts.get("schema") != SCHEMA:
            found = facts.get("schema")
            raise ValueError(f"{path.name} has schema {found!r}; this fedkd reads {SCHEMA}")
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
