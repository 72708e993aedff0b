"""Flower's own commands, as the server uses them: what is said to them and what they answer."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import ssl
import subprocess  # nosec B404  # lists of words, no shell
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from fedkd.certificates import ServerFiles
from fedkd.deployment.names import COMPONENTS
from fedkd.deployment.processes import command
from fedkd.errors import RunStopped

CONNECTION, REGISTERED = "fedkd", "clients.json"
_BUNDLE = """\
# Configuration only: the code is the installed package fedkd, of the same version everywhere.
[project]
name = "fedkd-run"
version = "{version}"
dependencies = ["fedkd=={version}"]

[tool.flwr.app]
publisher = "fedkd"

[tool.flwr.app.components]
serverapp = "{serverapp}"
clientapp = "{clientapp}"

[tool.flwr.app.config]
scenario-json = {scenario}
fedkd-run = "{run_id}"
"""


def write_bundle(folder: Path, scenario_json: str, *, run_id: str) -> None:
    """Write a Flower app that is one file: the components by name, scenario and run."""
    folder.mkdir(parents=True, exist_ok=True)
    text = _BUNDLE.format(
        version=importlib.metadata.version("fedkd"),
        scenario=json.dumps(scenario_json, ensure_ascii=False),
        run_id=run_id,
        **COMPONENTS,
    )
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def write_connection(home: Path, *, inner: int, ca: Path) -> None:
    """Tell Flower's commands where the server is."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = [
        "[superlink]",
        f'default = "{CONNECTION}"',
        f"[superlink.{CONNECTION}]",
        f'address = "127.0.0.1:{inner}"',
        f"root-certificates = {json.dumps(str(ca.resolve()))}",
    ]
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def superlink_words(files: ServerFiles, *, state: Path, port: int) -> list[str]:
    """Return the command of Flower's server: TLS, registered keys only, loopback, a database."""
    return [
        *("flower-superlink", "--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-ca-certfile", str(files.ca), "--ssl-certfile", str(files.certificate)),
        *("--ssl-keyfile", str(files.key), "--enable-supernode-auth"),
        *("--disable-runtime-dependency-installation", "--database", str(state / "state.db")),
    ]


def run_words(state: Path) -> list[str]:
    """Return the command that submits the run and prints its log until it ends."""
    return ["flwr", "run", str(state / "fedkd-run"), CONNECTION, "--stream"]


def wait_until_up(
    superlink: subprocess.Popen[bytes], *, ca: Path, port: int, log: Path, patience: float = 120.0
) -> None:
    """Wait until Flower's server answers; RunStopped when it ends or takes too long."""
    trust, limit = ssl.create_default_context(cafile=str(ca)), time.monotonic() + patience
    with httpx.Client(verify=trust, trust_env=False) as client:
        while time.monotonic() < limit and superlink.poll() is None:
            with suppress(httpx.TransportError):
                if client.get(f"https://127.0.0.1:{port}/health").is_success:
                    return
            time.sleep(0.2)
    raise RunStopped(f"Flower's server did not start; its log: {log}")


def register(clients: Mapping[int, Path], *, state: Path, environment: Mapping[str, str]) -> None:
    """Register the clients' keys, each under the name ``client-N``.

    The names are how the server knows which client a key is (``fedkd_server.roll_call``). A key
    that took another's place is registered instead of it. RunStopped when Flower refuses one.
    """
    known = _read_registered(state)
    for client, path in clients.items():
        name, key = f"client-{client}", path.read_text(encoding="utf-8").strip()
        before = known.pop(name, None)
        if before is not None and before["key"] == key:
            known[name] = before
            continue
        if before is not None:
            _flwr(["supernode", "unregister", before["node"], CONNECTION], environment=environment)
        words = ["supernode", "register", str(path), CONNECTION, "--name", name]
        answer = _flwr(words, environment=environment)
        known[name] = {"node": str(answer["node-id"]), "key": key}
        (state / REGISTERED).write_text(json.dumps(known), encoding="utf-8")


def presence(*, state: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return whether each client is registered (only), online or offline, by its name."""
    found = _flwr(["supernode", "list", CONNECTION], environment=environment)
    nodes = {node["node-id"]: node["status"] for node in found["nodes"]}
    known = _read_registered(state)
    return {name: nodes.get(facts["node"], "unknown") for name, facts in sorted(known.items())}


def _read_registered(state: Path) -> dict[str, dict[str, str]]:
    try:
        return json.loads((state / REGISTERED).read_text(encoding="utf-8"))
    except OSError:
        return {}


def end_server_app(pids: Sequence[int], *, patience: float = 15.0) -> None:
    """Ask a running server app to end and wait for it: it writes its summary then."""
    apps = [pid for pid in pids if b"flwr-serverapp" in _command_line(pid)]
    for pid in apps:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    limit = time.monotonic() + patience
    while any(_command_line(pid) for pid in apps) and time.monotonic() < limit:
        time.sleep(0.1)


def read_log(path: Path) -> str:
    """Return a log without what colors it; empty when there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _flwr(words: Sequence[str], *, environment: Mapping[str, str]) -> dict[str, Any]:
    done = subprocess.run(  # nosec B603  # our flwr, words of ours
        [command("flwr"), *words, "--format", "json"],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError:
        answer = {"success": False, "error-message": (done.stdout + done.stderr)[-400:]}
    if not answer.get("success"):
        raise RunStopped(f"'flwr {' '.join(words)}' failed: {answer.get('error-message')}")
    return answer
