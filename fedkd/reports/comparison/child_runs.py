"""Run single runs in child processes, several at once, and end them when nobody waits any more."""

from __future__ import annotations

import json
import os
import subprocess  # nosec B404  # lists of words, no shell
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedkd.errors import RunStopped
from fedkd.scenario import Scenario

SIMULATE = (sys.executable, "-m", "fedkd", "simulate")
PATIENCE = 10.0
"""Seconds a child has to end when it is told to."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        place: its position in the plan.
        scenario: as it was named in the arguments.
        method: as it was named in the arguments, with the values of all other lists.
        seed: root of the run's random streams.
        against: the method the others are tested against, the first one named.
        overrides: what makes ``resolved``.
        resolved: the checked scenario.
    """

    place: int
    scenario: str
    method: str
    seed: int
    against: str
    overrides: tuple[str, ...]
    resolved: Scenario


class Runner(Protocol):
    """Makes single runs; ``run`` is called from several threads at once."""

    def run(self, planned: PlannedRun, *, out: Path) -> dict[str, Any]:
        """Run to the end and return the keys of ``summary.json``; RunStopped if it fails."""
        ...

    def stop(self) -> None:
        """End the runs under way and refuse new ones; does nothing when there are none."""
        ...


class Children:
    """Runs ``fedkd simulate``, one process a run, one thread a process.

    Args:
        command: what is started; ``--json --quiet --out OUT`` and the overrides follow.
        plugins: files that every child loads first.
    """

    def __init__(self, *, command: Sequence[str] = SIMULATE, plugins: Sequence[str] = ()) -> None:
        loaded = [word for plugin in plugins for word in ("--plugin", plugin)]
        self._command = [*command, "--json", "--quiet", *loaded]
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, planned: PlannedRun, *, out: Path) -> dict[str, Any]:
        """Run to the end and return the last line of standard output, a JSON object."""
        where = f"scenario={planned.scenario} method={planned.method} seed={planned.seed}"
        child = self._start([*self._command, "--out", str(out), *planned.overrides], where)
        try:
            printed, complaints = child.communicate()
        finally:
            with self._lock:
                self._children.discard(child)
        if child.returncode != 0:
            reason = _last_line(complaints).removeprefix("fedkd: ")
            raise RunStopped(f"{where}: {reason or f'exit code {child.returncode}'}")
        try:
            return dict(json.loads(_last_line(printed)))
        except ValueError:
            raise RunStopped(f"{where}: {_last_line(printed)!r} is no summary") from None

    def stop(self) -> None:
        """Terminate the children, kill those that do not end in time, refuse to start more."""
        with self._lock:
            self._stopped = True
            children = list(self._children)
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()

    def _start(self, command: list[str], where: str) -> subprocess.Popen[str]:
        with self._lock:
            if self._stopped:
                raise RunStopped(f"{where}: not started, the comparison has ended")
            child = subprocess.Popen(  # nosec B603  # our Python, no shell
                command,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
            self._children.add(child)
        return child


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
