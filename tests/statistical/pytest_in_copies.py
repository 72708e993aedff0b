"""Runs pytest against copies of the source, each in a fork, so that libraries load only once.

Reads a JSON object a line, ``{"copy": folder, "tests": [...]}``; answers each with pytest's exit
code (negative: killed by that signal). What pytest prints goes to ``said.txt`` in the copy.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

LIBRARIES = (
    *("dp_accounting.pld", "dp_accounting.rdp", "flwr.clientapp", "flwr.serverapp", "hydra"),
    *("hypothesis", "opacus.grad_sample", "opacus.optimizers", "opacus.validators", "pandas"),
    *("pydantic", "scipy.stats", "sklearn.cluster", "torch", "typer"),
)
"""Slow to import; none of them imports ours."""
PATIENCE = 300
"""Seconds after which a test run is killed."""


def _run(copy: Path, tests: list[str]) -> int:
    """Run tests in this process, which must have nothing of ours imported yet."""
    with (copy / "said.txt").open("w") as said:
        os.dup2(said.fileno(), sys.stdout.fileno())
        os.dup2(said.fileno(), sys.stderr.fileno())
    os.chdir(copy)
    sys.path[:0] = [str(copy), str(copy / "clients"), str(copy / "server")]
    signal.alarm(PATIENCE)
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))


def main() -> None:
    """Serve until standard input ends."""
    sys.dont_write_bytecode = True
    for library in LIBRARIES:
        importlib.import_module(library)
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            code = pytest.ExitCode.INTERNAL_ERROR.value
            try:
                code = _run(Path(task["copy"]), task["tests"])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
