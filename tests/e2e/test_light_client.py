"""The wheel in an empty environment: first what a client needs, and it works so; then all of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from fedkd import certificates
from fedkd.deployment.processes import free_port
from tests.e2e.deployed import ended

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ABSENT = ("ray", "pandas", "hydra", "omegaconf", "matplotlib", "plotext", "reportlab", "pyarrow")
FILES = "import importlib.metadata as m; print(*m.files('fedkd'), sep='\\n')"
LIMIT_MB = 1700
SCENARIO = ["scenario=external_proxy", "data=digits", "clients=1", "rounds=1", "models=mlp"]


pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dist")
    build = ["-m", "build", "--wheel", "--outdir", str(place), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, capture_output=True, timeout=300)
    (made,) = place.glob("fedkd-*.whl")
    return made


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the commands of an environment with a client's requirements only."""
    place = tmp_path_factory.mktemp("light")
    venv.create(place, with_pip=True)
    for words in (["-r", ROOT / "clients" / "requirements.txt"], ["--no-deps", wheel]):
        _install(place / "bin", *words)
    return place / "bin"


def _install(commands: Path, *words: str | Path) -> None:
    pip = [commands / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *words], check=True, capture_output=True, timeout=1200)


def test_a_light_client_takes_part_in_a_run(light: Path, tmp_path: Path):
    probe = f"import importlib.util as u; print([n for n in {ABSENT} if u.find_spec(n)])"
    found = subprocess.run([light / "python", "-c", probe], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    size = subprocess.run(["du", "-sm", light.parent], capture_output=True, text=True)
    assert int(size.stdout.split()[0]) < LIMIT_MB
    certs, port = tmp_path / "certs", free_port()
    certificates.init(certs, hosts=[], addresses=[], n_clients=1, days=1)
    words = ["server", "up", "--certs", certs, "--port", str(port), *SCENARIO, "proxy.size=100"]
    join = ["client", "join", "--server", f"127.0.0.1:{port}", "--certs", certs, "--client", "0"]
    server = _start([BIN / "fedkd", *words], tmp_path / "server.log")
    client = _start([light / "fedkd", *join], tmp_path / "client.log")
    with ended(server), ended(client):
        limit = time.monotonic() + 600
        while server.poll() is None and time.monotonic() < limit:
            time.sleep(0.5)
    logs = "".join((tmp_path / name).read_text() for name in ("server.log", "client.log"))
    assert server.returncode == 0, logs
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["rounds_done"], summary["failures"]) == (1, 0)


def _start(words: list[str | Path], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)


def test_with_all_of_it_a_scenario_runs_and_no_generic_top_level_name_is_there(
    wheel: Path, light: Path, tmp_path: Path
):
    """After the light client, in the same environment: what is heavy is fetched once."""
    _install(light, wheel)
    subprocess.run([light / "python", "-m", "pip", "check"], check=True, capture_output=True)
    words = ["simulate", "scenario=iid", "rounds=2", "--json", "--quiet"]
    done = subprocess.run(
        [light / "fedkd", *words],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["status"] == "finished"
    assert summary["accuracy_mean"] > 0.2
    assert (tmp_path / summary["run_dir"] / "metrics.parquet").is_file()
    record = subprocess.run(
        [light / "python", "-c", FILES],
        cwd=tmp_path,  # from the checkout, its own metadata would be found
        check=True,
        capture_output=True,
        text=True,
    )
    top = {Path(line).parts[0] for line in record.stdout.split() if not line.startswith("..")}
    allowed = {"fedkd", "fedkd_clients", "fedkd_server", "fedkd_scenarios"}
    assert {name for name in top if not name.endswith(".dist-info")} == allowed
