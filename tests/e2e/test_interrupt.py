"""Ctrl-C or SIGTERM leaves a readable run folder, a line that says so and exit code 130."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedkd.run_files import read_metrics, read_scenario, read_summary

LONG = ["data=digits", "models=mlp", "clients=3", "rounds=100000", "partition=iid"]
PATIENCE = 60


def _start(out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedkd", "simulate", *LONG, *words, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_ctrl_c,
    )


def _hear_ctrl_c() -> None:
    """A shell's background jobs ignore SIGINT and so would their children; a terminal's do not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run does not get going"
        time.sleep(0.02)


def _events(out: Path) -> int:
    return sum(len(p.read_text().splitlines()) for p in out.glob("*/events.jsonl"))


@pytest.mark.parametrize(
    ("words", "how"),
    [(["--quiet", "--json"], signal.SIGINT), ([], signal.SIGINT), ([], signal.SIGTERM)],
)
def test_an_interrupted_run_is_readable(tmp_path, words, how):
    process = _start(tmp_path, *words)
    _wait(lambda: _events(tmp_path) >= 3, process)
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    (folder,) = tmp_path.iterdir()
    said = [line for line in stderr.splitlines() if line.startswith("fedkd: ")]
    assert said == [f"fedkd: interrupted; {folder} holds what was done"]
    summary = read_summary(folder)
    assert summary["status"] == "interrupted"
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["round"] for event in events] == list(range(len(events)))
    assert summary["rounds_done"] == len(events) - 1 >= 2
    table = read_metrics(folder)
    assert int(table["round"].max()) == summary["rounds_done"]
    assert read_scenario(folder).rounds == 100000
    assert not list(folder.glob("*.part"))
