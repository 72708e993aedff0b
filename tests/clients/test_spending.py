"""A client's own ledger: nothing private leaves before it is written down, whoever asks."""

from __future__ import annotations

import math

import pytest
from fedkd_clients.app import fleet_in_memory
from fedkd_clients.spending import Spending

from fedkd.compose import compose
from fedkd.errors import BudgetSpent
from fedkd.privacy.events import Unit
from fedkd.privacy.ledger import Channel, Ledger
from fedkd.privacy.releases import releases
from fedkd.transport.messages import Action, Request

GUARD = (Unit.RECORD, Channel.UPLOAD)
CONTRIBUTE = Request(action=Action.CONTRIBUTE, client=0)


@pytest.mark.parametrize("method", ["fedavg", "local"])
def test_who_needs_no_proxy_set_gives_no_example_to_one(tiny, method):
    """The proxy set is pooled unless something else is said, also where nobody asks for it."""
    settings = ("privacy.dp_sgd=true", "privacy.noise_multiplier=1.0")
    fleet = fleet_in_memory(tiny(f"method={method}", *settings))
    (reply,) = fleet.handle([CONTRIBUTE])
    assert (reply.error, reply.contribution) == ("PermissionError", None)


def test_examples_given_in_clear_are_written_down_before_they_leave_and_once(tiny, play, tmp_path):
    """A run that ends right after its set-up has shown them all the same."""
    (reply,) = fleet_in_memory(tiny(), tmp_path).handle([CONTRIBUTE])
    assert len(reply.contribution) > 0
    spent = Ledger(path=tmp_path / "client-0.jsonl")
    assert spent.epsilon(0, *GUARD, delta=1e-5) == math.inf
    fleet = fleet_in_memory(tiny(), tmp_path / "whole")
    play(tiny(), fleet_for=lambda _: fleet)
    whole = Ledger(path=tmp_path / "whole" / "client-0.jsonl").all_of(0)
    assert [c.round for c in whole if c.release.what == "proxy set"] == [0, 0]


def test_two_runs_at_once_on_the_same_data_share_one_budget(tmp_path):
    scenario = compose(["scenario=dp_sgd", "data=digits", "models=mlp", "proxy.size=60"])
    first, second = (Spending(scenario, tmp_path) for _ in range(2))
    planned = releases(scenario, n_rows=60, first=True)
    for n in range(1, scenario.rounds // 2 + 1):
        first.charge(0, planned, round=n)
        second.charge(0, planned, round=n)
    for one in (first, second):
        with pytest.raises(BudgetSpent):
            one.charge(0, planned, round=scenario.rounds)
    spent = Ledger(path=tmp_path / "client-0.jsonl").epsilon(0, *GUARD, delta=1e-5)
    assert spent <= scenario.privacy.target_epsilon
