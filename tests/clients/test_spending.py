"""A client's own ledger: nothing private leaves before it is written down, whoever asks."""

from __future__ import annotations

import math

import pytest
from fedkd_clients.app import fleet_in_memory
from fedkd_clients.spending import Spending, Uncharged

from fedkd.compose import compose
from fedkd.errors import BudgetSpent, ConfigError
from fedkd.privacy.events import Gaussian, Unit
from fedkd.privacy.ledger import Channel, Charge, Ledger, Release
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
        assert not first.charge([0], planned, round=n)
        assert not second.charge([0], planned, round=n)
    for one in (first, second):
        refused = one.charge([0], planned, round=scenario.rounds)
        assert [type(error) for error in refused.values()] == [BudgetSpent]
    spent = Ledger(path=tmp_path / "client-0.jsonl").epsilon(0, *GUARD, delta=1e-5)
    assert spent <= scenario.privacy.target_epsilon


PROTECTED = ["scenario=dp_sgd", "data=digits", "models=mlp", "proxy.size=60", "clients=5"]
RUN = "ab" * 16


@pytest.fixture(params=["memory", "folder"])
def folder(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "ledgers"


def _shared(scenario) -> list[Release]:
    return releases(scenario, n_rows=60, first=False)


def test_a_client_over_budget_is_refused_alone_and_charged_nothing(folder):
    scenario = compose(PROTECTED)
    spending, planned = Spending(scenario, folder, run=RUN), _shared(scenario)
    for n in range(1, scenario.rounds + 1):
        assert not spending.charge([2], planned, round=n)
    last = scenario.rounds + 1
    for _ in range(2):
        refused = spending.charge([0, 2, 4], planned, round=last)
        assert [(client, type(error)) for client, error in refused.items()] == [(2, BudgetSpent)]
        assert f"round {last} would take client 2 to epsilon" in str(refused[2])
    for n in range(last + 1, last + scenario.rounds):
        assert not spending.charge([0, 4], planned, round=n)
    assert {*spending.charge([0, 2, 4], planned, round=2 * last)} == {0, 2, 4}
    if folder is not None:
        counts = [len(Ledger(path=folder / f"client-{c}.jsonl").charges) for c in (0, 2, 4)]
        uploads = [release for release in planned if release.channel is Channel.UPLOAD]
        assert set(counts) == {scenario.rounds * len(uploads)}


def test_a_round_done_again_is_charged_once_also_for_part_of_a_group(folder):
    scenario = compose(PROTECTED)
    spending, planned = Spending(scenario, folder, run=RUN), _shared(scenario)
    for n in range(1, scenario.rounds + 1):
        for group in ([0, 1], [2], [1, 2, 3], [3, 0], [0, 1, 2, 3]):
            assert not spending.charge(group, planned, round=n)
    assert {*spending.charge(range(4), planned, round=scenario.rounds + 1)} == {0, 1, 2, 3}
    anonymous = Spending(scenario, None)
    for n in range(1, scenario.rounds + 1):
        anonymous.charge([0], planned, round=n)
    assert {*anonymous.charge([0], planned, round=1)} == {0}, "without a run's name it costs again"


def test_what_the_server_remembers_of_a_run_counts_in_memory():
    scenario = compose(PROTECTED)
    told, planned = Ledger(), releases(scenario, n_rows=60, first=True)
    uploads = [release for release in planned if release.channel is Channel.UPLOAD]
    rounds = range(1, scenario.rounds + 1)
    told.add(Charge(round=n, clients=(0, 3), release=one) for n in rounds for one in uploads)
    spending = Spending(scenario, None, run=RUN)
    spending.recall(told)
    assert not spending.charge([0, 1], planned, round=scenario.rounds), "it was charged before"
    assert {*spending.charge([0, 1, 3], planned, round=scenario.rounds + 1)} == {0, 3}


def test_a_ledger_that_cannot_be_read_stops_its_client_alone(tmp_path):
    scenario = compose(PROTECTED)
    spending, planned = Spending(scenario, tmp_path, run=RUN), _shared(scenario)
    (tmp_path / "client-1.jsonl").write_text("what was here?\n")
    refused = spending.charge([0, 1, 2], planned, round=1)
    assert [(client, type(error)) for client, error in refused.items()] == [(1, ConfigError)]
    for client in (0, 2):
        assert Ledger(path=tmp_path / f"client-{client}.jsonl").charges


def test_only_dp_sgd_is_compared_with_what_was_charged():
    scenario = compose(PROTECTED)
    planned = _shared(scenario)
    steps = [release.event for release in planned if release.unit is Unit.RECORD]
    Spending(scenario, None).verify(0, steps, planned)
    for wrong in ([], [*steps, *steps], [Gaussian(1.0)]):
        with pytest.raises(Uncharged, match="client 0 did"):
            Spending(scenario, None).verify(0, wrong, planned)
    plain = compose(["data=digits", "models=mlp"])
    Spending(plain, None).verify(0, [Gaussian(1.0)], releases(plain, n_rows=60, first=True))
