"""The walk-through of docs/how_to/deploy.md, run as it is printed, by real processes over TLS."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedkd.deployment.processes import descendants, free_port
from fedkd.simulation import simulate

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "deploy.md"
PORT = "9092"
pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]


def commands() -> str:
    """Return the page's bash blocks, in order."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return "set -eu\n" + "\n".join(blocks)


@contextmanager
def shell(script: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script in a folder and end all it leaves behind."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=os.environ | {"PATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield running
    finally:
        for pid in [*descendants(running.pid), running.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        running.wait()


def test_the_page_has_a_server_and_its_clients_in_order():
    script = commands()
    steps = ["certs init certs --clients 3", "server up --certs certs", "client join --server"]
    assert sorted(steps, key=script.index) == steps
    assert script.count(PORT) == 1


def test_the_walk_through_gives_what_a_simulation_gives(tmp_path):
    """As printed, but for the port, which may be in use here."""
    port, script = str(free_port()), commands()
    script = script.replace(PORT, port).replace("server up ", f"server up --port {port} ")
    with shell(script, tmp_path) as running:
        status = running.wait(timeout=900)
    log = (tmp_path / "log").read_text(errors="replace")
    assert status == 0, log[-4000:]
    (summary,) = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/summary.json")]
    assert (summary["status"], summary["failures"], summary["rounds_done"]) == ("finished", 0, 2)
    (line,) = [line for line in script.splitlines() if "server up" in line]
    words = [word for word in shlex.split(line.rstrip("& ")) if "=" in word]
    here = simulate(words, out=tmp_path / "simulated")
    for key in ("scenario_hash", "bytes_up", "bytes_down", "teacher_accuracy"):
        assert summary[key] == here[key], key
    assert _digests(Path(tmp_path / "runs")) == _digests(tmp_path / "simulated")


def _digests(runs: Path) -> list[str]:
    (events,) = runs.glob("*/events.jsonl")
    return [json.loads(line)["digest"] for line in events.read_text().splitlines()]
