"""What a deployer finds under clients/ and server/: it parses, fits together, and really runs."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedkd.deployment.processes import free_port
from tests.e2e.deployed import ended

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "server/compose.yaml").read_text())
UNIT = ROOT / "clients" / "fedkd-client.service"
DOCKERFILES = [ROOT / "clients" / "Dockerfile", ROOT / "server" / "Dockerfile"]
INSTRUCTIONS = {
    *("FROM", "RUN", "COPY", "WORKDIR", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"),
    *("ENTRYPOINT", "CMD"),
}


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def last(path: Path, name: str) -> str:
    return [rest for instruction, rest in instructions(path) if instruction == name][-1]


def exec_start() -> str:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    return unit["Service"]["ExecStart"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_a_dockerfile_is_sound(path: Path):
    found = instructions(path)
    assert {name for name, _ in found} <= INSTRUCTIONS
    assert found[0][0] == "FROM"
    assert all("slim" in rest for name, rest in found if name == "FROM")
    assert last(path, "USER") == "10001", "it does not run as root, and clusters can tell"
    assert "useradd --uid 10001" in " ".join(rest for name, rest in found if name == "RUN")
    for name, rest in found:
        if name in ("ENTRYPOINT", "CMD"):
            assert json.loads(rest)
        if name == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
        if name == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest
    copied = " ".join(rest for name, rest in found if name == "COPY")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for folder in project["tool"]["setuptools"]["package-dir"].values():
        assert folder.split("/")[0] in copied, "the wheel is built from all of its folders"


def test_the_light_requirements_are_the_packages_own():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "clients" / "requirements.txt").read_text().splitlines()
    wanted = {line.split("#")[0].strip() for line in lines} - {""}
    assert wanted <= set(declared)
    heavy = ("ray", "pandas", "hydra", "omegaconf", "matplotlib", "plotext", "reportlab", "pyarrow")
    assert not [line for line in wanted if line.startswith(heavy)]


def test_the_composition_fits_together():
    services = COMPOSE["services"]
    clients = {name for name in services if name.startswith("client-")}
    assert clients == {"client-0", "client-1", "client-2"}
    used: set[str] = set()
    for service in services.values():
        for volume in service["volumes"]:
            used.add(volume.split(":")[0] if isinstance(volume, str) else volume["source"])
        assert set(service.get("depends_on", {})) <= set(services)
    assert used == set(COMPOSE["volumes"])
    for name in clients:
        certs, state = services[name]["volumes"]
        assert certs["volume"]["subpath"] == name, "a client sees its own key only"
        assert certs["read_only"]
        assert state == f"{name}-state:/state"
        assert services[name]["restart"] == "unless-stopped"
    assert services["server"]["ports"] == ["127.0.0.1:9092:9092"], "loopback unless changed"
    for name in (*clients, "server"):
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["init"], "Flower's client processes leave children to reap"


def test_the_unit_restarts_ever_more_slowly():
    text = UNIT.read_text()
    for line in ("Restart=always", "RestartSec=15", "RestartMaxDelaySec=600", "KillMode=mixed"):
        assert line in text.splitlines()
    for name in re.findall(r"\$\{(\w+)\}", text):
        assert name in (ROOT / "clients" / "README.md").read_text(), f"{name} is not explained"


def test_systemd_accepts_the_unit(tmp_path: Path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:  # not every machine has systemd; the unit is parsed above
        return
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/fedkd/bin/fedkd", str(BIN / "fedkd")))
    done = subprocess.run([analyze, "verify", here], capture_output=True, text=True, check=False)
    newer = re.compile(r"Unknown key '(RestartSteps|RestartMaxDelaySec)' in section")
    said = [line for line in done.stderr.splitlines() if not newer.search(line)]
    assert [line for line in said if UNIT.name in line] == []


def fill(words: list[str], places: dict[str, str]) -> list[str]:
    filled: list[str] = []
    for word in words:
        for name, value in places.items():
            word = word.replace(name, value)
        filled.append(word)
    return filled


@contextmanager
def running(words: list[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        child = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent, env=env
        )
    with ended(child):
        yield child


@pytest.mark.slow
@pytest.mark.enable_socket
def test_the_exact_commands_run_a_federation(tmp_path: Path):
    """Compose's certificates, server and clients 0 and 1, and client 2 as the service starts it."""
    services, port = COMPOSE["services"], free_port()
    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    certs, runs = tmp_path / "certs", tmp_path / "runs"
    (command,) = services["certs"]["command"]
    made = command.replace("/certs", str(certs))
    for _ in range(2):  # the second start finds them there
        subprocess.run(["sh", "-c", made], check=True, env=env, timeout=60)
    entry = json.loads(last(DOCKERFILES[1], "ENTRYPOINT"))
    places = {"/certs": str(certs / "server"), "/state": str(tmp_path / "state")}
    places |= {"/runs": str(runs), "0.0.0.0": "127.0.0.1", "9092": str(port)}
    server = fill([*entry, *services["server"]["command"]], places)
    np.savez(tmp_path / "own.npz", x=_pictures(), y=np.arange(60) % 10)
    with running(server, tmp_path / "server.log", env) as process:
        clients = [*(_composed(n, certs, port) for n in (0, 1)), _as_service(certs, port, tmp_path)]
        logs = [tmp_path / f"client-{n}.log" for n in range(3)]
        with (
            running(clients[0], logs[0], env),
            running(clients[1], logs[1], env),
            running(clients[2], logs[2], env),
        ):
            limit = time.monotonic() + 900
            while process.poll() is None and time.monotonic() < limit:
                time.sleep(0.5)
    assert process.returncode == 0, (tmp_path / "server.log").read_text()
    (run,) = runs.iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["rounds_done"], summary["failures"]) == (3, 0)


def _pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 8, 8)).astype(np.uint8)


def _composed(client: int, certs: Path, port: int) -> list[str]:
    entry = json.loads(last(DOCKERFILES[0], "ENTRYPOINT"))
    places = {"server:9092": f"127.0.0.1:{port}", "/certs": str(certs / f"client-{client}")}
    state = {"/state": str(certs.parent / f"state-{client}")}
    return fill([*entry, *COMPOSE["services"][f"client-{client}"]["command"]], places | state)


def _as_service(certs: Path, port: int, place: Path) -> list[str]:
    places = {
        "/opt/fedkd/bin/": f"{BIN}/",
        "/etc/fedkd/certs": str(certs / "client-2"),
        "/var/lib/fedkd": str(place / "state-2"),
        "${FEDKD_SERVER}": f"127.0.0.1:{port}",
        "${FEDKD_CLIENT}": "2",
        "${FEDKD_DATA}": str(place / "own.npz"),
        "${FEDKD_SCENARIO_HASH}": "",
    }
    return fill(shlex.split(exec_start()), places)
