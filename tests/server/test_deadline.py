"""Real clients and the clock: what is late is dropped or stands in, and nothing waits for ever."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
import torch
from fedkd_clients.app import build_app
from fedkd_clients.fleet import Fleet
from fedkd_clients.store import MemoryStore
from fedkd_server.postbox import Wait
from fedkd_server.roll_call import set_up_limit
from fedkd_server.rounds import run_rounds
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from fedkd.errors import RunStopped
from fedkd.faults.settings import LatePolicy
from fedkd.results import Loss, RoundResult
from fedkd.scenario import to_json
from fedkd.transport.inprocess import InProcessGrid

SLOW = 1
"""The client whose answer to a round comes while the next one goes on."""


class SlowGrid(InProcessGrid):
    """Holds a client's answers back until other messages have been sent, as a slow one would."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.sent: list[Message] = []
        self.limits: list[float | None] = []
        self.twice = False
        self._held: dict[str, int] = {}
        self._pushes = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        self.sent += messages
        self._pushes += 1
        ids = super().push_messages(messages)
        for identity, message in zip(ids, messages, strict=True):
            in_round = message.metadata.group_id != "0"
            if in_round and message.metadata.dst_node_id == SLOW + 1:
                self._held[identity] = self._pushes
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready = [i for i in message_ids if self._held.get(i, 0) < self._pushes]
        return super().pull_messages(ready)

    def send_and_receive(self, messages, *, timeout=None):
        self.limits.append(timeout)
        replies = self.pull_messages(self.push_messages(messages))
        in_round = any(reply.metadata.group_id != "0" for reply in replies)
        return replies * 2 if self.twice and in_round else replies


@pytest.fixture
def deployed(tiny):
    """Run with real clients, one of them slow; return the results and the grid."""

    def run(*overrides: str, twice: bool = False) -> tuple[list[RoundResult], SlowGrid]:
        scenario = tiny("method=fedmd", "rounds=3", "min_completion=0.1", *overrides)
        fleet = Fleet(scenario, MemoryStore(), device=torch.device("cpu"), simulated=False)
        app = build_app(lambda _: fleet)
        grid = SlowGrid(app, n_clients=scenario.clients, scenario_json=to_json(scenario))
        TaskIdentity.task_id = TaskIdentity.run_id = grid.run.run_id
        TaskIdentity.node_id = 0
        grid.twice = twice
        return list(run_rounds(grid, scenario)), grid

    return run


def _told(results: list[RoundResult]) -> list[list[tuple[int, str]]]:
    return [[(f.client, f.reason) for f in r.failures] for r in results[1:]]


def test_who_misses_the_deadline_has_not_answered_and_its_message_ages(deployed):
    results, grid = deployed("deadline_s=0.2")
    assert _told(results) == [[(SLOW, Loss.NO_ANSWER.value)]] * 3
    ages = {m.metadata.ttl for m in grid.sent if m.metadata.group_id != "0"}
    assert ages == {0.2}


def test_before_round_1_a_real_client_is_waited_for_as_long_as_at_the_start(deployed, monkeypatch):
    _, grid = deployed("deadline_s=0.2", "rounds=1")
    assert grid.limits[:2] == [None, set_up_limit()], "nobody was waited for at the start"
    kinds = {m.metadata.message_type: m.metadata.ttl for m in grid.sent}
    assert kinds["train.contribute"] == set_up_limit()
    monkeypatch.setenv("FEDKD_WAIT_S", "100")
    _, grid = deployed("rounds=1")
    assert grid.limits[:3] == [set_up_limit(), set_up_limit(), None]
    assert 100 < set_up_limit() < 1000


def test_a_late_answer_stands_in_next_round_and_waiting_ends(deployed):
    started = time.monotonic()
    results, grid = deployed("deadline_s=0.2", "late_policy=next_round")
    assert time.monotonic() - started < 20
    assert _told(results) == [[(SLOW, Loss.NO_ANSWER.value)]] * 3
    assert [r.stood_in for r in results[1:]] == [[], [SLOW], [SLOW]]
    assert {m.metadata.ttl for m in grid.sent if m.metadata.group_id != "0"} == {0.4}
    dropped, _ = deployed("deadline_s=0.2")
    assert results[1].digest == dropped[1].digest
    assert results[2].digest != dropped[2].digest


def test_a_second_answer_is_refused_with_its_reason(deployed):
    results, _ = deployed("deadline_s=0.2", twice=True)
    assert [(f.client, f.reason) for f in results[1].refused] == [
        (0, Loss.SECOND.value),
        (2, Loss.SECOND.value),
    ]
    plain, _ = deployed("deadline_s=0.2")
    assert [r.digest for r in results] == [r.digest for r in plain]


def test_faults_are_not_acted_out_on_real_clients(deployed):
    with pytest.raises(RunStopped, match=r"clients \[0, 1, 2\] are real; use faults=null devices"):
        deployed("faults={drop: 0.1}")


def test_messages_live_as_long_as_their_answers_are_of_use():
    assert Wait().lifetime_s is None
    assert Wait(seconds=3).lifetime_s == 3
    assert Wait(seconds=3, late=LatePolicy.NEXT_ROUND).lifetime_s == 6
