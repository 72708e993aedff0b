"""``flwr run .`` carries the same apps over Flower's own simulation, with the same result hash."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkd.simulation import simulate

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RUNS = {
    "iid": (3, ["scenario=iid", "rounds=2", "data=digits", "models=mlp", "clients=3"]),
    # The smoke block of the scenario, which `fedkd resolve` has no switch for.
    "masked_sums": (10, ["scenario=masked_sums", "rounds=2", "data.limit=600"]),
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a Flower home of its own; ends the local SuperLink that was started in it."""
    home = tmp_path / "flwr"
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(_free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(_free_port()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "FEDKD_RUNS": str(tmp_path / "runs"),
        "FEDKD_STATE_DIR": str(tmp_path / "state"),
    }
    yield environment
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            started_here = str(home).encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        if started_here and b"flower-superlink" in command:
            os.kill(int(entry.name), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.enable_socket
@pytest.mark.parametrize("run", RUNS)
def test_flower_simulation_gives_the_result_of_the_in_process_grid(
    tmp_path: Path, flower: dict[str, str], run: str
) -> None:
    n_clients, overrides = RUNS[run]
    config = tmp_path / "run.toml"
    resolved = subprocess.run(
        [BIN / "fedkd", "resolve", *overrides], capture_output=True, text=True, check=True
    )
    config.write_text(resolved.stdout)
    done = subprocess.run(
        [
            *(BIN / "flwr", "run", ".", "local", "--stream"),
            *("--federation-config", f"num-supernodes={n_clients} client-resources-num-cpus=1"),
            *("--run-config", str(config)),
        ],
        cwd=ROOT,
        env=flower,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    summary = _wait_for_summary(tmp_path / "runs", done)
    here = simulate(overrides, out=tmp_path / "here")
    assert summary["status"] == "finished"
    assert summary["failures"] == 0
    assert summary["accuracy_mean"] is not None, "simulated clients are measured"
    assert summary["result_hash"] == here["result_hash"]
    assert summary["bytes_up"] == here["bytes_up"]
    stored = list((tmp_path / "state").glob("run-*/client-*.safetensors"))
    ids = {file.name.split(".")[0] for file in stored}
    assert ids >= {f"client-{client}" for client in range(n_clients)}


def _wait_for_summary(runs: Path, done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    for _ in range(30):
        found = list(runs.glob("*/summary.json"))
        if found:
            return json.loads(found[0].read_text())
        time.sleep(1)
    raise AssertionError(f"no run folder; flwr said:\n{done.stdout}\n{done.stderr}")
