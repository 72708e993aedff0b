"""The messages of a run on disk: what its server and its clients saw, for audits.

Layout of ``RUN/transcript`` (schema 1, see docs/run_folder.md): ``index.json`` (SHA-256 of every
file and of every upload, also of those not kept), ``proxy.safetensors``, one file for each kept
round, and ``student.safetensors``.

Privacy: a transcript holds the uploads of all clients. It is as private as they are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedkd.audit.seen import Seen
from fedkd.audit.views import Adversary, View
from fedkd.errors import ConfigError
from fedkd.results import Traffic
from fedkd.runtime import Kept
from fedkd.transcript_writer import FOLDER, INDEX, PROXY, STUDENT
from fedkd.transport.codes import RecordError
from fedkd.transport.stored import (
    Stored,
    content_of,
    from_bytes,
    proxy_of,
    traffic_of,
)
from fedkd.types import SCHEMA, ProxySet, Update


class Transcript:
    """The messages of a finished run; adversaries get at them through :meth:`seen_by` only.

    Attributes:
        sha256: of the index, which holds those of all files: it names the whole transcript.
        kept: which rounds' messages there are.
        n_clients: of the run.
    """

    def __init__(self, folder: Path, index: dict[str, Any], *, sha256: str) -> None:
        self._folder, self._files, self.sha256 = folder, dict[str, str](index["files"]), sha256
        self.kept, self.n_clients = Kept(index["kept"]), int(index["clients"])
        self._rounds = {int(row["round"]): row for row in index["rounds"]}
        self._newest: tuple[int, Traffic] | None = None

    @staticmethod
    def read(run: Path) -> Transcript:
        """Open a run folder's transcript and check every file's hash.

        Raises:
            ConfigError: there is none, it is newer than this fedkd, or a file is damaged.
        """
        folder = run / FOLDER
        try:
            data = (folder / INDEX).read_bytes()
        except OSError:
            raise ConfigError(
                f"{str(run)!r}: the run kept no transcript; run it again with transcript=last"
            ) from None
        try:
            index = json.loads(data)
            schema = index["schema"]
            if schema == SCHEMA:
                found = Transcript(folder, index, sha256=hashlib.sha256(data).hexdigest())
                found._check()
                return found
        except ConfigError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(folder / INDEX, f"{type(error).__name__}: {error}") from None
        raise ConfigError(
            f"{str(folder / INDEX)!r} has schema {schema!r}; this fedkd reads {SCHEMA}, update it"
        )

    def rounds(self) -> tuple[int, ...]:
        """Return the rounds whose messages were kept, ascending."""
        return tuple(sorted(n for n, row in self._rounds.items() if row["file"] is not None))

    def hashes(self, round: int) -> dict[str, str]:
        """Return the SHA-256 of each message of any round, such as ``upload.3``, kept or not."""
        return dict(self._row(round)["parts"])

    def traffic(self, round: int) -> Traffic:
        """Return a kept round's messages: all of them, so this is for no attack.

        Raises:
            ConfigError: the round was not kept, or a file is damaged.
        """
        if self._newest is None or self._newest[0] != round:
            self._newest = (round, self._read_round(round))
        return self._newest[1]

    def proxy(self) -> ProxySet | None:
        """Return the proxy set with all owners, or None for a method without one."""
        return proxy_of(self._load(PROXY)["proxy"]) if PROXY in self._files else None

    def student(self) -> Update | None:
        """Return the final student's parameters, or None when nothing was trained on a server.

        For methods that average parameters it is the last average.
        """
        if STUDENT not in self._files:
            return None
        student = content_of(self._load(STUDENT)["student"])
        if not isinstance(student, Update):
            raise _damaged(self._folder / STUDENT, "it holds no parameters")
        return student

    def student_sha256(self) -> str | None:
        """Return the SHA-256 of the final student's file, None when there is none."""
        return self._files.get(STUDENT)

    def seen_by(self, adversary: Adversary, *, client: int | None = None) -> View:
        """Return the run through one adversary's eyes.

        Args:
            adversary: who looks.
            client: which client looks, for ``Adversary.CLIENT`` and no other.

        Raises:
            ConfigError: a client is missing, unknown, or named for another adversary.
        """
        is_client = adversary is Adversary.CLIENT
        if is_client != (client is not None):
            remedy = "say which client looks" if is_client else "only a client has a number"
            raise ConfigError(f"client: {client!r} for the adversary {adversary.value!r}; {remedy}")
        if client is not None and not 0 <= client < self.n_clients:
            raise ConfigError(f"client: {client} is not in 0..{self.n_clients - 1}")
        return Seen(self, adversary, client=client)

    def _check(self) -> None:
        if not self.rounds():
            raise ConfigError(
                f"{str(self._folder)!r}: the run ended before its first round; run it again"
            )
        for name in {*self._files, *(self._rounds[n]["file"] for n in self.rounds())}:
            self._verified(name)

    def _row(self, round: int) -> dict[str, Any]:
        if round not in self._rounds:
            raise ConfigError(f"round: {round} is not in the transcript {str(self._folder)!r}")
        return self._rounds[round]

    def _read_round(self, round: int) -> Traffic:
        row = self._row(round)
        if row["file"] is None:
            raise ConfigError(
                f"round: {round} was not kept, only {list(self.rounds())}; run it again with "
                "transcript=all"
            )
        parts = self._load(row["file"])
        if {part: one.sha256() for part, one in parts.items()} != row["parts"]:
            raise _damaged(self._folder / row["file"], f"its messages are not those of {INDEX}")
        return traffic_of(parts)

    def _load(self, name: str) -> dict[str, Stored]:
        data = self._verified(name)
        try:
            return from_bytes(data)
        except (RecordError, SafetensorError, ValueError, KeyError) as error:
            raise _damaged(self._folder / name, str(error)) from None

    def _verified(self, name: str) -> bytes:
        path = self._folder / Path(name).name
        try:
            data = path.read_bytes()
        except OSError:
            raise _damaged(path, "it is missing") from None
        if hashlib.sha256(data).hexdigest() != self._files.get(name):
            raise _damaged(path, f"its SHA-256 is not the one in {INDEX}")
        return data


def _damaged(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{str(path)!r} is damaged: {reason}; run it again")
