"""Flower's commands as child processes that do not outlive us."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess  # nosec B404  # lists of words, no shell
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from fedkd.errors import ConfigError

_SET_PARENT_DEATH_SIGNAL = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}
"""No telemetry, no look for updates, and no ``uv sync`` that would shadow what is installed."""


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of Flower's commands: our interpreter first, a home of their own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | QUIET | {"FLWR_HOME": str(home.resolve()), "PATH": path} | dict(extra or {})


def command(name: str) -> str:
    """Return the path of an installed command; ConfigError when it is not beside our Python."""
    found = shutil.which(name, path=environment(Path())["PATH"])
    if found is None:
        raise ConfigError(f"the command {name!r} is not installed; 'pip install flwr'")
    return found


def start(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: IO[bytes] | int | None,
    orphaned: signal.Signals | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child process in a session of its own, so that a terminal's Ctrl-C spares it.

    Args:
        words: the command and its arguments.
        environment: of :func:`environment`.
        output: where both of its streams go; None for where ours go.
        orphaned: on Linux, what the kernel sends the child when we are killed. Give it only
            before this process has threads.
    """
    tie = orphaned is not None and sys.platform == "linux"
    return subprocess.Popen(  # nosec B603  # commands beside our Python
        [command(words[0]), *words[1:]],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=(lambda: _tie_to_parent(orphaned)) if tie else None,
    )


def stop(child: subprocess.Popen[bytes], *, patience: float) -> None:
    """Ask a child to end; then make it, its session and what it started end."""
    family = descendants(child.pid)
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=patience)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    child.wait()


def descendants(pid: int) -> list[int]:
    """Return the ids of the processes below ``pid``, parents first; empty where /proc is not."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parent = int(entry.read_text().rsplit(")", 1)[1].split()[1])
            below.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found += below.get(one, [])
    return found[1:]


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def born(pid: int) -> str | None:
    """Return when a process was started, in the kernel's words; None when there is none.

    With the process id it names a process for good: ids are used again.
    """
    if sys.platform != "linux":
        with suppress(OSError):
            os.kill(pid, 0)
            return ""
        return None
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if facts[0] == "Z" else facts[19]


def _tie_to_parent(orphaned: signal.Signals | None) -> None:
    if _LIBC is not None and orphaned is not None:
        _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, orphaned)
