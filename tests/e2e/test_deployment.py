"""A real deployment on loopback: TLS, registered keys, Flower's own servers, three clients."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from fedkd import certificates
from fedkd.deployment.admission import Reason
from fedkd.deployment.processes import descendants, environment, free_port, start, stop
from fedkd.privacy.ledger import Ledger
from fedkd.run_files import LEDGER, read_events
from fedkd.simulation import simulate
from tests.e2e.deployed import BIN, Server, alive, ended, fedkd, joined, serving, wait_for

SCENARIO = [
    *("scenario=external_proxy", "data=digits", "clients=3", "rounds=2", "proxy.size=200"),
    *("partition=iid", "models={cnn_small: 1, mlp: 1, resnet8: 1}"),
]
pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("deployment"), *SCENARIO) as running:
        yield running


def refusal(tmp_path: Path, *words: str | Path) -> tuple[int, str]:
    log = tmp_path / "refused.log"
    with ended(fedkd("client", "join", *words, "--wait", "0", log=log)) as process:
        code = process.wait(timeout=120)
    return code, log.read_text()


def other_certs(tmp_path: Path) -> Path:
    certificates.init(tmp_path / "other", hosts=[], addresses=[], n_clients=3, days=2)
    return tmp_path / "other"


def test_a_client_with_another_authority_does_not_trust_the_server(server: Server, tmp_path: Path):
    certs = other_certs(tmp_path)
    code, said = refusal(tmp_path, "--server", server.address, "--certs", certs, "--client", "0")
    assert code == Reason.WRONG_CA
    assert "not signed by our ca.crt" in said


def test_an_unregistered_key_is_refused(server: Server, tmp_path: Path):
    place = other_certs(tmp_path) / "client-1"
    (place / "ca.crt").write_bytes((server.certs / "ca.crt").read_bytes())
    code, said = refusal(tmp_path, "--server", server.address, "--certs", place, "--client", "1")
    assert code == Reason.NOT_REGISTERED
    assert "does not know the key" in said


def test_without_a_key_nothing_is_even_tried(server: Server, tmp_path: Path):
    place = tmp_path / "empty"
    place.mkdir()
    (place / "ca.crt").write_bytes((server.certs / "ca.crt").read_bytes())
    code, said = refusal(tmp_path, "--server", server.address, "--certs", place, "--client", "1")
    assert code == Reason.NO_KEY
    assert "client-1.key' is missing" in said


def test_a_scenario_that_was_not_agreed_to_is_refused(server: Server, tmp_path: Path):
    words = ["--server", server.address, "--certs", server.certs, "--client", "0"]
    code, said = refusal(tmp_path, *words, "--scenario-hash", "0123456789abcdef")
    assert code == Reason.OTHER_SCENARIO
    assert "you agreed to '0123456789abcdef'" in said


def test_nobody_there(server: Server, tmp_path: Path):
    words = ["--certs", server.certs, "--client", "0"]
    code, _ = refusal(tmp_path, "--server", f"127.0.0.1:{free_port()}", *words)
    assert code == Reason.UNREACHABLE


@pytest.mark.parametrize("key", [False, True], ids=["no key", "unregistered key"])
def test_flower_itself_refuses_strangers_behind_the_gateway(
    server: Server, tmp_path: Path, key: bool
):
    words = ["--superlink", f"127.0.0.1:{_inner(server)}", "--port", str(free_port())]
    words += ["--root-certificates", str(server.certs / "ca.crt")]
    if key:
        path = other_certs(tmp_path) / "client-1" / "client-1.key"
        words += ["--auth-supernode-private-key", str(path)]
    log = tmp_path / "log"
    with log.open("wb") as file:
        child = start(["flower-supernode", *words], environment=environment(tmp_path), output=file)
    try:
        assert child.wait(timeout=120) == 1
    finally:
        stop(child, patience=5)
    assert "Exit Code: 305" in log.read_text()


def _inner(server: Server) -> int:
    config = (server.place / "state" / "flower" / "config.toml").read_text()
    return int(config.split('address = "127.0.0.1:')[1].split('"')[0])


def test_the_control_interface_is_closed_to_others(server: Server, tmp_path: Path):
    ours, theirs = server.place / "state" / "flower", tmp_path / "flower"
    theirs.mkdir()
    config = (ours / "config.toml").read_text()
    (theirs / "config.toml").write_text(config.replace(str(_inner(server)), str(server.port)))

    def flwr(home: Path, *words: str | Path) -> bool:
        done = subprocess.run(
            [BIN / "flwr", *words, "--format", "json"],
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return json.loads(done.stdout)["success"]

    assert flwr(ours, "list", "fedkd")
    assert not flwr(theirs, "list", "fedkd")
    key = other_certs(tmp_path) / "server" / "clients" / "client-1.pub"
    assert not flwr(theirs, "supernode", "register", key, "fedkd")
    with httpx.Client(verify=_trust(server), trust_env=False) as anyone:
        for path in ("/v1/control/start-run", "/v1/runtime/push-messages", "/docs", "/health"):
            assert anyone.post(f"https://{server.address}{path}").status_code in (404, 405)


def _trust(server: Server) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(server.certs / "ca.crt"))


def test_three_clients_agree_as_in_a_simulation(server: Server, tmp_path: Path):
    status = [BIN / "fedkd", "server", "status", "--json", "--state", server.place / "state"]
    children: list[subprocess.Popen[bytes]] = []
    try:
        children = [joined(server, client) for client in range(3)]
        server.said("set-up:", seconds=400)  # two rounds are left to ask for the status
        shown = json.loads(subprocess.run(status, capture_output=True, check=True).stdout)
        server.process.wait(timeout=400)
    finally:
        for child in children:
            with ended(child):
                pass
    assert server.process.returncode == 0, server.log()
    assert shown["clients"] == {f"client-{n}": "online" for n in range(3)}
    assert [child.returncode for child in children] == [130, 130, 130]
    (run,) = (server.place / "runs").iterdir()
    here = simulate(SCENARIO, out=tmp_path)
    deployed = json.loads((run / "summary.json").read_text())
    assert _digests(run) == _digests(Path(here["run_dir"]))
    assert deployed["failures"] == 0
    for key in ("bytes_up", "bytes_down", "bytes_by_kind", "scenario_hash"):
        assert deployed[key] == here[key]
    assert deployed["accuracy_mean"] is None, "nobody asks a client on a device how good it is"
    logs = "".join((server.place / f"client-{n}.log").read_text() for n in range(3))
    assert "query.measure" not in logs
    assert "Traceback" not in logs


def test_a_killed_server_goes_on_from_its_checkpoint_with_the_clients_joining_again(
    tmp_path: Path,
):
    scenario = [*SCENARIO, "rounds=3"]
    with serving(tmp_path, *scenario) as first, ExitStack() as joined_clients:
        clients = [joined_clients.enter_context(ended(joined(first, n))) for n in range(3)]
        first.said("round 1/3", seconds=400)
        family = [first.process.pid, *descendants(first.process.pid)]
        kill(family)
        first.process.wait(timeout=60)
        kill([clients[1].pid, *descendants(clients[1].pid)])
        (run,) = (tmp_path / "runs").iterdir()
        before = [e["round"] for e in read_events(run)]
        assert before[-1] < 3
        joined_clients.enter_context(ended(joined(first, 1)))
        (tmp_path / "server.log").rename(tmp_path / "server-1.log")
        with serving(tmp_path, "--resume", run, port=first.port) as second:
            second.process.wait(timeout=500)
            assert second.process.returncode == 0, second.log()
    here = simulate(scenario, out=tmp_path / "simulated")
    deployed = json.loads((run / "summary.json").read_text())
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]
    assert _digests(run) == _digests(Path(here["run_dir"]))
    assert (deployed["status"], deployed["failures"]) == ("finished", 0)
    assert deployed["bytes_by_kind"] == here["bytes_by_kind"]
    charges = Ledger(path=run / LEDGER).charges
    assert charges == Ledger(path=Path(here["run_dir"]) / LEDGER).charges


def kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _digests(run: Path) -> list[str]:
    lines = (run / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["digest"] for line in lines]


EVIL = {
    "pyproject.toml": """
[project]
name = "evil"
version = "1.0.0"
[tool.flwr.app]
publisher = "evil"
[tool.flwr.app.components]
serverapp = "evil:server"
clientapp = "evil:client"
""",
    "evil.py": """
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
Path(PLACE).open("a").write("the server\\n")
server = ServerApp()
client = ClientApp()

@server.main()
def main(grid, context):
    (node,) = grid.get_node_ids()
    grid.send_and_receive([Message(RecordDict(), node, "query")])

@client.query()
def query(message, context):
    Path(PLACE).open("a").write("a client\\n")
    return Message(RecordDict(), reply_to=message)
""",
}


def test_a_client_does_not_run_what_the_operator_submits(tmp_path: Path):
    """And a server that is stopped, here while it waits for clients, leaves nothing behind."""
    evil, place = tmp_path / "evil", tmp_path / "ran"
    evil.mkdir()
    for name, text in EVIL.items():
        (evil / name).write_text(text.replace("PLACE", repr(str(place))))
    with serving(tmp_path, *SCENARIO) as running, ended(joined(running, 0)) as client:
        running.said("Push replies", log="state/superlink.log", seconds=240)
        flower = environment(running.place / "state" / "flower")
        submit = [BIN / "flwr", "run", evil, "fedkd"]
        done = subprocess.run(
            submit, env=flower, check=False, timeout=120, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        log = tmp_path / "client-0.log"
        assert client.wait(timeout=300) == Reason.CODE_SENT, log.read_text()
        assert "sent a bundle with code" in log.read_text()
        assert place.read_text() == "the server\n"
        _stopped(running)


def _stopped(running: Server) -> None:
    """Stop a server from elsewhere and see that it is gone."""
    family, state = descendants(running.process.pid), ["--state", running.place / "state"]
    assert len(family) >= 3
    subprocess.run([BIN / "fedkd", "server", "stop", *state], check=True, timeout=90)
    assert running.process.wait(timeout=60) == 130
    wait_for(lambda: not any(map(alive, family)), seconds=60, why=lambda: f"left: {family}")
    done = subprocess.run([BIN / "fedkd", "server", "status", *state], check=False)
    assert done.returncode == 1
