"""Who takes part: registered names decide, versions must agree, and waiting has an end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from fedkd_clients.app import build_app
from fedkd_clients.fleet import Fleet
from fedkd_clients.store import MemoryStore
from fedkd_server.rounds import run_rounds
from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from fedkd.errors import RunStopped
from fedkd.scenario import Scenario, to_json
from fedkd.transport.hello import OtherScenario, OtherVersion, agree, greeting
from fedkd.transport.inprocess import InProcessGrid
from fedkd.transport.messages import Hello


class RegisteredGrid(InProcessGrid):
    """Nodes that a SuperLink knows by name, and that come one by one."""

    names: tuple[str, ...] = ()
    arrive_at: float = 0.0

    def get_nodes(self) -> Iterable[NodeInfo]:
        late = time.monotonic() < self.arrive_at
        for node, name in zip(sorted(self.get_node_ids()), self.names, strict=True):
            if not (late and node == max(self.get_node_ids())):
                yield NodeInfo(node_id=node, name=name)


def _start(grid: InProcessGrid, scenario: Scenario):
    TaskIdentity.task_id = TaskIdentity.run_id = grid.run.run_id
    TaskIdentity.node_id = 0
    return next(run_rounds(grid, scenario))


@pytest.fixture
def fleet(tiny) -> Callable[..., Fleet]:
    def make(scenario: Scenario | None = None, *, simulated: bool = True) -> Fleet:
        return Fleet(
            scenario or tiny(), MemoryStore(), device=torch.device("cpu"), simulated=simulated
        )

    return make


def _grid(scenario: Scenario, fleet: Fleet, *names: str) -> RegisteredGrid:
    app = build_app(lambda _: fleet)
    grid = RegisteredGrid(app, n_clients=scenario.clients, scenario_json=to_json(scenario))
    grid.names = names or ("",) * scenario.clients
    return grid


def test_a_node_registered_under_its_name_takes_part(tiny, fleet):
    grid = _grid(tiny(), fleet(), "client-0", "client-1", "client-2")
    assert _start(grid, tiny()).failures == []


def test_a_claim_that_the_registration_contradicts_is_refused(tiny, fleet):
    grid = _grid(tiny(), fleet(), "client-0", "client-2", "client-1")
    with pytest.raises(RunStopped) as stopped:
        _start(grid, tiny())
    assert "missing client ids [1, 2]" in str(stopped.value)
    assert "the key registered as 'client-2' says it is client 1" in str(stopped.value)


def test_among_registered_nodes_one_without_a_name_is_nobody(tiny, fleet):
    grid = _grid(tiny(), fleet(), "client-0", "client-1", "")
    with pytest.raises(RunStopped, match=r"missing client ids \[2\].*registered as '' says"):
        _start(grid, tiny())


def test_a_node_that_goes_away_while_it_is_asked_is_asked_again(tiny, fleet, monkeypatch):
    """Flower answers for it with an error from its own node id, which nobody is registered as."""
    monkeypatch.setenv("FEDKD_WAIT_S", "30")

    class Leaving(RegisteredGrid):
        left = 1

        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            if self.left:
                self.left -= 1
                gone = Message(Error(code=5, reason="Node Unavailable"), reply_to=messages[1])
                vars(gone.metadata)["_src_node_id"] = 10**6
                replies[1] = gone
            return replies

    app = build_app(lambda _: fleet())
    grid = Leaving(app, n_clients=3, scenario_json=to_json(tiny()))
    grid.names = ("client-0", "client-1", "client-2")
    assert _start(grid, tiny()).failures == []
    assert grid.left == 0


def test_a_client_with_another_scenario_is_refused_with_both_hashes(tiny, fleet):
    theirs = tiny("rounds=9")
    with pytest.raises(RunStopped, match="missing client ids") as stopped:
        _start(_grid(tiny(), fleet(theirs)), tiny())
    assert "OtherScenario" in str(stopped.value), "the client itself refuses, with a type name only"


def test_a_client_with_another_version_is_refused_by_both_sides(tiny, fleet, monkeypatch):
    other = fleet()
    old = replace(greeting(tiny(), simulated=True), version="0.0.1")
    monkeypatch.setattr(other, "_greeting", old)
    with pytest.raises(RunStopped, match="OtherVersion"):
        _start(_grid(tiny(), other), tiny())
    monkeypatch.setattr("fedkd_clients.fleet.agree", lambda *_: None)
    with pytest.raises(RunStopped, match=r"fedkd '0\.0\.1' there, .* install the same version"):
        _start(_grid(tiny(), other), tiny())


def test_greetings_must_agree():
    mine = Hello(version="1", scenario="a")
    agree(mine, Hello(version="1", scenario="a", simulated=True))
    with pytest.raises(OtherVersion, match="an older one"):
        agree(mine, None)
    with pytest.raises(OtherScenario, match="'b' there, 'a' here"):
        agree(mine, Hello(version="1", scenario="b"))


def test_a_late_client_is_waited_for(tiny, fleet, monkeypatch):
    monkeypatch.setenv("FEDKD_WAIT_S", "20")
    monkeypatch.setattr("fedkd_server.roll_call._BETWEEN_S", 0.05)
    grid = _grid(tiny(), fleet(), "client-0", "client-1", "client-2")
    grid.arrive_at = time.monotonic() + 0.5
    assert _start(grid, tiny()).failures == []


def test_waiting_ends(tiny, fleet, monkeypatch):
    monkeypatch.setenv("FEDKD_WAIT_S", "0.5")
    monkeypatch.setattr("fedkd_server.roll_call._BETWEEN_S", 0.05)
    grid = _grid(tiny(), fleet(), "client-0", "client-1", "client-2")
    grid.arrive_at = time.monotonic() + 60
    began = time.monotonic()
    with pytest.raises(RunStopped, match=r"missing client ids \[2\]"):
        _start(grid, tiny())
    assert 0.5 <= time.monotonic() - began < 10


def test_clients_on_devices_are_never_asked_how_good_they_are(tiny, fleet, play, monkeypatch):
    asked: list[str] = []
    device = fleet(simulated=False)
    handle = device.handle

    def watched(requests):
        asked.extend(request.action.value for request in requests)
        return handle(requests)

    monkeypatch.setattr(device, "handle", watched)
    results = play(tiny(), fleet_for=lambda _: device)
    assert len(results) == 3
    assert "query.measure" not in asked
    assert "train.round" in asked
    assert [result.failures for result in results] == [[], [], []]
