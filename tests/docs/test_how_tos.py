"""The how-tos are true: their files and commands run as they are printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOW_TOS = Path(__file__).parents[2] / "docs" / "how_to"
FENCE = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str, language: str) -> list[str]:
    text = (HOW_TOS / f"{name}.md").read_text(encoding="utf-8")
    return [code for kind, code in FENCE.findall(text) if kind == language]


def write_file(name: str, folder: Path) -> Path:
    """Join a page's Python blocks into the file that its first line names."""
    code = "\n".join(blocks(name, "python"))
    path = folder / code.splitlines()[0].removeprefix("# ")
    assert path.suffix == ".py"
    path.write_text(code, encoding="utf-8")
    return path


def run_commands(name: str, folder: Path) -> str:
    """Run a page's commands in one shell, in ``folder``; return what they printed."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    script = "set -euo pipefail\n" + "\n".join(blocks(name, "bash"))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def summaries(folder: Path) -> list[dict[str, object]]:
    paths = sorted(folder.glob("runs/*/summary.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def test_own_model_and_data(tmp_path):
    write_file("own_model_and_data", tmp_path)
    printed = run_commands("own_model_and_data", tmp_path)
    assert "accuracy" in printed
    from_python, from_command, mixed = summaries(tmp_path)
    assert from_python["result_hash"] == from_command["result_hash"]
    assert {run["status"] for run in (from_python, from_command, mixed)} == {"finished"}
    assert mixed["scenario_hash"] != from_command["scenario_hash"]


def test_own_method(tmp_path):
    write_file("own_method", tmp_path)
    printed = run_commands("own_method", tmp_path)
    assert "sharp_fd" in printed
    (run,) = summaries(tmp_path)
    assert run["method"] == "sharp_fd"
    assert run["status"] == "finished"
    assert run["coverage"] == pytest.approx(1.0)
