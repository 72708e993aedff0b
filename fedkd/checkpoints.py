"""What a run needs to go on after it was killed: one checkpoint after every round.

Layout of ``RUN/checkpoints`` (schema 1, see docs/run_folder.md): ``proxy.safetensors``, written
once, and a folder for each of the two newest checkpoints, ``round-0007``, with
``checkpoint.json`` (scenario, its hash, what the server remembers, SHA-256 of every file),
``server.safetensors`` and, where this machine hosts the clients, ``clients-*.safetensors``.

Random streams are functions of seed, purpose, round and client, so that a checkpoint holds none:
a round that was cut short is done again, and comes out the same.

Privacy: in a simulation a checkpoint holds every client's model, and its keys for masked sums.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError
from fedkd.scenario import Scenario, scenario_hash, to_json
from fedkd.steps import reached
from fedkd.transport.stored import Stored, from_bytes, proxy_of, stored_proxy, to_bytes
from fedkd.types import SCHEMA, ProxySet

FOLDER, MANIFEST, SERVER, PROXY = (
    "checkpoints",
    "checkpoint.json",
    "server.safetensors",
    "proxy.safetensors",
)
_KEPT = 2
_LARGE = 16 << 20
"""Bytes of a file that is not to stay in the cache of the system."""


class Damaged(ValueError):
    """A checkpoint that is not as it was written."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint on disk, whole.

    Attributes:
        path: its folder, where whoever wrote client files finds them again.
        round: the last round it includes; 0 is set-up.
        facts: what the server remembers, as JSON holds it.
    """

    path: Path
    round: int
    facts: Mapping[str, Any]

    def parts(self) -> dict[str, Stored]:
        """Return what the server remembers as tensors."""
        return from_bytes((self.path / SERVER).read_bytes())

    def clients(self) -> list[Path]:
        """Return the files of the clients that this machine hosts."""
        return sorted(self.path.glob("clients-*"))

    def proxy(self) -> ProxySet | None:
        """Return the proxy set with all owners, or None for a method without one."""
        path = self.path.parent / PROXY
        return proxy_of(from_bytes(path.read_bytes())["proxy"]) if path.exists() else None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: the run folder.
        scenario: what is run.
    """

    def __init__(self, run: Path, scenario: Scenario) -> None:
        self._folder, self._scenario = run / FOLDER, scenario
        self._every = scenario.runtime.checkpoint_every

    def due(self, round: int) -> bool:
        """Return whether a checkpoint is wanted after this round; never after the last one."""
        wanted = self._every > 0 and round % self._every == 0
        return wanted and round < self._scenario.rounds

    def write(
        self,
        round: int,
        *,
        facts: Mapping[str, Any],
        parts: Mapping[str, Stored],
        proxy: ProxySet | None,
        clients: Callable[[Path], None],
    ) -> None:
        """Write a checkpoint whole or not at all, then drop all but the newest two.

        Args:
            round: the last round it includes.
            facts: what the server remembers.
            parts: the same as tensors.
            proxy: the proxy set, which is written once.
            clients: writes files of the clients hosted here into a folder.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        reached("checkpoint begun", round)
        shared = self._folder / PROXY
        if proxy is not None and not shared.exists():
            _durable(shared, to_bytes({"proxy": stored_proxy(proxy)}))
        for left in self._folder.glob("part-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        part = self._folder / f"part-{os.getpid()}"
        part.mkdir()
        _durable(part / SERVER, to_bytes(parts))
        clients(part)
        named = [*sorted(part.iterdir()), *([shared] if shared.exists() else [])]
        manifest = {
            "schema": SCHEMA,
            "round": round,
            "scenario": json.loads(to_json(self._scenario)),
            "scenario_hash": scenario_hash(self._scenario),
            "facts": facts,
            "files": _checksums(named),
        }
        whole = {"sha256": _of(manifest), "manifest": manifest}
        _durable(part / MANIFEST, json.dumps(whole).encode())
        _sync(part)
        reached("checkpoint written", round)
        place = self._folder / f"round-{round:04d}"
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
        _sync(self._folder)
        reached("checkpoint in place", round)
        for old in self._found()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint that is whole, and what is wrong with newer ones.

        Raises:
            ConfigError: it was made from another scenario; the differences are named.
        """
        wrong: list[str] = []
        for path in reversed(self._found()):
            try:
                return self._read(path), wrong
            except (Damaged, OSError, ValueError, KeyError, TypeError) as error:
                if isinstance(error, ConfigError):
                    raise
                wrong.append(f"{path.name}: {error}")
        return None, wrong

    def drop_after(self, round: int) -> None:
        """Drop what is newer than ``round``: it is damaged, or of rounds that are done again."""
        for path in self._found():
            if int(path.name.removeprefix("round-")) > round:
                shutil.rmtree(path)

    def clear(self) -> None:
        """Drop them all: the run is finished, and they hold its clients' models."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        return sorted(self._folder.glob("round-*"))

    def _read(self, path: Path) -> Checkpoint:
        whole = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        manifest = whole["manifest"]
        if whole["sha256"] != _of(manifest):
            raise Damaged(f"{MANIFEST} is not as it was written")
        if manifest["schema"] != SCHEMA:
            raise Damaged(f"schema {manifest['schema']!r}; this fedkd reads {SCHEMA}")
        if manifest["scenario_hash"] != scenario_hash(self._scenario):
            now = json.loads(to_json(self._scenario))
            raise ConfigError(
                f"{str(path)!r} was made from another scenario: "
                f"{'; '.join(differences(manifest['scenario'], now))}; put it back, or start a "
                "new run"
            )
        files = [(path.parent if name == PROXY else path) / name for name in manifest["files"]]
        for name, found in _checksums(files).items():
            if found != manifest["files"][name]:
                raise Damaged(f"{name} is not as it was written")
        return Checkpoint(path=path, round=manifest["round"], facts=manifest["facts"])


def differences(then: Any, now: Any, path: str = "") -> list[str]:
    """Return where two scenarios differ, as ``path: then, now``, but for what the hash ignores."""
    if isinstance(then, dict) and isinstance(now, dict):
        found: list[str] = []
        for key in sorted(
            {*then, *now} - ({"name", "description", "runtime"} if not path else set())
        ):
            found += differences(then.get(key), now.get(key), f"{path}.{key}" if path else key)
        return found
    return [] if then == now else [f"{path}: {then!r} then, {now!r} now"]


def _durable(path: Path, data: bytes) -> None:
    """Write a file that is there after a power cut, or leave none under its name."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _sync(folder: Path) -> None:
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _checksums(files: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by name; while one is hashed, other cores take the next.

    Large ones are on the disk and out of the system's cache afterwards: their pages would be
    written while the next round computes, and take the place of rows that it reads.
    """
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip((path.name for path in files), pool.map(_sha256, files), strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if path.stat().st_size >= _LARGE and sys.platform == "linux":
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return found
