"""The built wheel works in an empty environment, from any folder, without the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.enable_socket
def test_wheel_runs_a_scenario_and_adds_no_generic_top_level_name(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,) = (tmp_path / "dist").glob("fedkd-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", str(wheel)],
        check=True,
        capture_output=True,
        timeout=900,
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [tmp_path / "env/bin/fedkd", "simulate", "scenario=iid", "rounds=2", "--json", "--quiet"],
        cwd=elsewhere,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["status"] == "finished"
    assert summary["accuracy_mean"] > 0.2
    assert (elsewhere / summary["run_dir"] / "metrics.parquet").is_file()
    record = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print(*m.files('fedkd'), sep='\\n')"],
        cwd=elsewhere,  # from the checkout, its own metadata would be found
        check=True,
        capture_output=True,
        text=True,
    )
    top = {Path(line).parts[0] for line in record.stdout.split() if not line.startswith("..")}
    allowed = {"fedkd", "fedkd_clients", "fedkd_server", "fedkd_scenarios"}
    assert {name for name in top if not name.endswith(".dist-info")} == allowed
