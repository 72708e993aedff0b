"""A client installs without what only a simulation needs, and works so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from fedkd import certificates
from fedkd.deployment.processes import descendants, free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ABSENT = ("ray", "pandas", "hydra", "omegaconf", "matplotlib", "plotext", "reportlab", "pyarrow")
LIMIT_MB = 1700
SCENARIO = ["scenario=external_proxy", "data=digits", "clients=1", "rounds=1", "models=mlp"]


@pytest.mark.slow
@pytest.mark.enable_socket
def test_a_light_client_takes_part_in_a_run(tmp_path: Path):
    light = _installed(tmp_path)
    probe = f"import importlib.util as u; print([n for n in {ABSENT} if u.find_spec(n)])"
    found = subprocess.run([light / "python", "-c", probe], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    size = subprocess.run(["du", "-sm", tmp_path / "light"], capture_output=True, text=True)
    assert int(size.stdout.split()[0]) < LIMIT_MB
    certs, port = tmp_path / "certs", free_port()
    certificates.init(certs, hosts=[], addresses=[], n_clients=1, days=1)
    words = ["server", "up", "--certs", certs, "--port", str(port), *SCENARIO, "proxy.size=100"]
    join = ["client", "join", "--server", f"127.0.0.1:{port}", "--certs", certs, "--client", "0"]
    server = _start([BIN / "fedkd", *words], tmp_path / "server.log")
    client = _start([light / "fedkd", *join], tmp_path / "client.log")
    try:
        limit = time.monotonic() + 300
        while server.poll() is None and time.monotonic() < limit:
            time.sleep(0.5)
    finally:
        _end(client)
        _end(server)
    logs = "".join((tmp_path / name).read_text() for name in ("server.log", "client.log"))
    assert server.returncode == 0, logs
    (run,) = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["rounds_done"], summary["failures"]) == (1, 0)


def _installed(place: Path) -> Path:
    build = ["-m", "build", "--wheel", "--outdir", str(place / "dist"), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, capture_output=True, timeout=300)
    (wheel,) = (place / "dist").glob("fedkd-*.whl")
    venv.create(place / "light", with_pip=True)
    pip = [place / "light" / "bin" / "python", "-m", "pip", "install", "--quiet"]
    for words in (["-r", ROOT / "clients" / "requirements.txt"], ["--no-deps", wheel]):
        subprocess.run([*pip, *words], check=True, capture_output=True, timeout=1200)
    return place / "light" / "bin"


def _start(words: list[str | Path], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)


def _end(child: subprocess.Popen[bytes]) -> None:
    family = descendants(child.pid)
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=40)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for pid in family:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
