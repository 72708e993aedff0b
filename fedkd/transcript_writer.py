"""The messages of a run, written to disk while it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkd.results import RoundResult, Traffic
from fedkd.runtime import Kept
from fedkd.transport.stored import Stored, parts_of, stored, stored_proxy, to_bytes
from fedkd.types import SCHEMA, Update

FOLDER, INDEX = "transcript", "index.json"
PROXY, STUDENT = "proxy.safetensors", "student.safetensors"


@dataclass(eq=False, kw_only=True)
class TranscriptWriter:
    """Writes as the run goes on: whatever ends it, what was kept is readable.

    Attributes:
        run: the run folder.
        kept: which rounds' messages are kept; of the others only hashes are.
        n_clients: of the run.
    """

    run: Path
    kept: Kept
    n_clients: int
    _files: dict[str, str] = field(default_factory=dict[str, str])
    _rounds: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _student: Stored | None = None

    def add(self, result: RoundResult) -> None:
        """Write one round down; a file of an earlier round goes only after the index forgot it."""
        traffic = result.traffic
        if self.kept is Kept.NONE or traffic is None:
            return
        if traffic.proxy is not None:
            self._write(PROXY, {"proxy": stored_proxy(traffic.proxy)})
        if result.round > 0:
            parts = parts_of(traffic)
            name = f"round-{result.round:04d}.safetensors"
            self._write(name, parts)
            hashes = {part: one.sha256() for part, one in parts.items()}
            self._rounds.append({"round": result.round, "file": name, "parts": hashes})
            self._student = _student(traffic) or self._student
        self._finish_files()

    def rewind(self, round: int) -> None:
        """Go on from what was written by the end of ``round``; later rounds are written anew."""
        index = self.run / FOLDER / INDEX
        if self.kept is Kept.NONE or not index.exists():
            return
        tree = json.loads(index.read_text(encoding="utf-8"))
        self._rounds = [row for row in tree["rounds"] if row["round"] <= round]
        later = {row["file"] for row in tree["rounds"] if row["round"] > round}
        self._files = {name: sha for name, sha in tree["files"].items() if name not in later}

    def close(self) -> None:
        """Write the student as it is after the last round, if there is one."""
        if self.kept is Kept.NONE:
            return
        if self._student is not None:
            self._write(STUDENT, {"student": self._student})
        self._finish_files()

    def _write(self, name: str, parts: Mapping[str, Stored]) -> None:
        data = to_bytes(parts)
        _replace(self._folder() / name, data)
        self._files[name] = hashlib.sha256(data).hexdigest()

    def _finish_files(self) -> None:
        if self.kept is Kept.LAST:
            for row in self._rounds[:-1]:
                row["file"] = None
        named = {PROXY, STUDENT, *(row["file"] for row in self._rounds)}
        self._files = {name: sha for name, sha in self._files.items() if name in named}
        index = {
            "schema": SCHEMA,
            "kept": self.kept.value,
            "clients": self.n_clients,
            "files": self._files,
            "rounds": self._rounds,
        }
        _replace(self._folder() / INDEX, (json.dumps(index, indent=1) + "\n").encode())
        for path in self._folder().iterdir():
            if path.name not in {INDEX, *self._files}:
                path.unlink()

    def _folder(self) -> Path:
        folder = self.run / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def _student(traffic: Traffic) -> Stored | None:
    if traffic.student is not None:
        return stored(traffic.student)
    averaged = traffic.broadcast
    return stored(averaged) if isinstance(averaged, Update) else None


def _replace(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)
