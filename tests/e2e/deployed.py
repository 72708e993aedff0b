"""Real servers and clients on loopback for tests: started, waited for, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd import certificates
from fedkd.deployment.processes import descendants, free_port

BIN = Path(sys.executable).parent


def fedkd(*words: str | Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [BIN / "fedkd", *words], stdout=file, stderr=subprocess.STDOUT, cwd=log.parent
        )


def wait_for(what: Callable[[], Any], *, seconds: float, why: Callable[[], str]) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError(why())


@contextmanager
def ended(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process that a test started, and what it started, however the test goes."""
    try:
        yield child
    finally:
        family = descendants(child.pid)
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=90)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for pid in filter(alive, family):
            with suppress(ProcessLookupError):  # it ended by itself since
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class Server:
    place: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def certs(self) -> Path:
        return self.place / "certs"

    def log(self) -> str:
        logs = [self.place / "server.log", *(self.place / "state").glob("*.log")]
        return "\n".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in logs)

    def said(self, text: str, *, log: str = "server.log", seconds: float = 180) -> None:
        path = self.place / log
        wait_for(lambda: text in path.read_text(), seconds=seconds, why=self.log)


@contextmanager
def serving(place: Path, *scenario: str | Path, port: int | None = None) -> Iterator[Server]:
    port = port or free_port()
    if not (place / "certs").exists():
        certificates.init(place / "certs", hosts=[], addresses=[], n_clients=3, days=2)
    options = ["--certs", "certs", "--state", "state", "--out", "runs", "--port", str(port)]
    log = place / "server.log"
    with ended(fedkd("server", "up", *options, "--wait", "600", *scenario, log=log)) as process:
        server = Server(place=place, port=port, process=process)
        server.said("listening on")
        yield server


def joined(server: Server, client: int, *more: str | Path) -> subprocess.Popen[bytes]:
    log = server.place / f"client-{client}.log"
    words = ["--server", server.address, "--certs", server.certs, "--client", str(client)]
    return fedkd("client", "join", *words, *more, log=log)
