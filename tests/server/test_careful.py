"""What Flower's reader raises on one node's answer costs that node its answer, and no other."""

from __future__ import annotations

import time
from collections.abc import Iterable

import httpx
import pytest
import torch
from fedkd_clients.app import build_app
from fedkd_clients.fleet import Fleet
from fedkd_clients.store import MemoryStore
from fedkd_server.rounds import run_rounds
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedkd.errors import RunStopped
from fedkd.results import RoundResult
from fedkd.scenario import to_json
from fedkd.transport.careful import CarefulGrid
from fedkd.transport.inprocess import InProcessGrid

ODD = 1


class Together(InProcessGrid):
    """Reads all the answers of a call, as Flower's grid does; those read are gone when one raises.

    Attributes:
        raised: what an answer of client ODD in a round provokes.
    """

    raised: Exception | None = None

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        answers = super().pull_messages(message_ids)
        for answer in answers:
            about = answer.metadata
            if self.raised and about.src_node_id == ODD + 1 and about.group_id != "0":
                raise self.raised
        return answers


@pytest.fixture
def run(tiny):
    def start(raised: Exception | None, *, careful: bool = True) -> list[RoundResult]:
        scenario = tiny("rounds=2", "min_completion=0.1")
        fleet = Fleet(scenario, MemoryStore(), device=torch.device("cpu"), simulated=True)
        inner = Together(
            build_app(lambda _: fleet), n_clients=scenario.clients, scenario_json=to_json(scenario)
        )
        inner.raised = raised
        TaskIdentity.task_id = TaskIdentity.run_id = inner.run.run_id
        TaskIdentity.node_id = 0
        return list(run_rounds(CarefulGrid(inner) if careful else inner, scenario))

    return start


def test_nothing_odd_changes_nothing(run):
    assert [r.digest for r in run(None)] == [r.digest for r in run(None, careful=False)]


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RecursionError("x")])
def test_an_odd_answer_is_that_clients_failure_alone(run, error):
    results = run(error)
    reason = f"unreadable reply ({type(error).__name__})"
    told = [(f.round, f.client, f.reason) for r in results[1:] for f in r.failures]
    assert told == [(1, ODD, reason), (2, ODD, reason)]
    assert all(result.digest for result in results[1:])


def test_together_one_odd_answer_ends_the_run(run):
    with pytest.raises(ValueError, match="x"):
        run(ValueError("x"), careful=False)


@pytest.mark.parametrize("error", [httpx.ConnectError("gone"), RunStopped("interrupted")])
def test_what_ends_the_superlink_or_the_run_is_no_clients_fault(run, error):
    with pytest.raises(type(error)):
        run(error)


def test_what_was_too_large_to_send_is_not_waited_for(tiny):
    class Full(InProcessGrid):
        def push_messages(self, messages):
            return []

    scenario = tiny()
    grid = CarefulGrid(Full(lambda *_: None, n_clients=3, scenario_json=to_json(scenario)))
    message = Message(RecordDict(), 1, "train.hello")
    assert grid.push_messages([message]) == [""]
    assert grid.send_and_receive([message]) == []


class Stalled(InProcessGrid):
    """A client's answer is announced in a round and does not come; Flower waits for it."""

    stalls = True

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        answers = super().pull_messages(message_ids)
        odd = [m for m in answers if m.metadata.src_node_id == ODD + 1]
        if self.stalls and odd and odd[0].metadata.group_id == "1":
            self.stalls = False
            time.sleep(60)
        return answers


@pytest.mark.parametrize("late", ["drop", "next_round"])
def test_an_answer_that_stalls_holds_up_no_other_and_no_deadline(tiny, late):
    scenario = tiny("rounds=2", "min_completion=0.1", "deadline_s=1", f"late_policy={late}")
    fleet = Fleet(scenario, MemoryStore(), device=torch.device("cpu"), simulated=False)
    inner = Stalled(
        build_app(lambda _: fleet), n_clients=scenario.clients, scenario_json=to_json(scenario)
    )
    TaskIdentity.task_id = TaskIdentity.run_id = inner.run.run_id
    TaskIdentity.node_id = 0
    begun = time.monotonic()
    results = []
    grid = CarefulGrid(inner)
    for result in run_rounds(grid, scenario):
        results.append(result)
        if result.round == 1:
            assert time.monotonic() - begun < 40, "the round ends at its deadline"
    told = [(f.round, f.client) for r in results[1:] for f in r.failures]
    assert told == [(1, ODD)]
    assert all(result.digest for result in results[1:])
    soon = Message(RecordDict(), 1, "train.hello", ttl=0.01)
    time.sleep(2.1)  # twice the deadline: the stalled answer is of no use any more
    grid.push_messages([soon])
    assert not grid._pulls, "and is not kept"
