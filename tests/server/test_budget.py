"""Budgets: a client is left out before the round that would exceed its target, not after it."""

from __future__ import annotations

import pytest
from fedkd_clients.app import fleet_in_memory
from fedkd_server.budget import Budget

from fedkd.compose import compose
from fedkd.privacy.accounting import epsilon
from fedkd.privacy.events import SampledGaussian, Unit
from fedkd.privacy.ledger import Channel, Charge, Ledger, Release
from fedkd.privacy.releases import releases
from fedkd.simulation import simulate

GUARD = (Unit.RECORD, Channel.UPLOAD)
DP = ["scenario=dp_sgd", "data=digits", "models=mlp", "proxy.size=60", "clients=3", "rounds=6"]
TIGHT = [*DP, "privacy.noise_multiplier=1.5", "privacy.sampling_probability=0.25"]


def _cost(rounds: int) -> float:
    return epsilon([SampledGaussian(0.25, 1.5, 4)] * rounds, delta=1e-5)


def _within(rounds: int) -> list[str]:
    """Return a scenario whose budget allows so many rounds and not one more."""
    target = (_cost(rounds) + _cost(rounds + 1)) / 2
    return [*TIGHT, f"privacy.target_epsilon={target}"]


def test_the_ledger_is_charged_before_anybody_is_asked_and_stops_in_time():
    scenario, ledger = compose(_within(3)), Ledger()
    budget = Budget(scenario, ledger, n_rows=60)
    admitted = [budget.admit([0, 1, 2], round=n) for n in range(1, 6)]
    assert admitted == [[0, 1, 2]] * 3 + [[], []]
    spent = ledger.epsilon(0, *GUARD, delta=1e-5)
    assert spent == _cost(3)
    assert spent <= scenario.privacy.target_epsilon < _cost(4)


def test_clients_that_took_part_less_often_may_go_on():
    budget = Budget(compose(_within(2)), Ledger(), n_rows=60)
    cohorts = [[0, 1], [0, 2], [0, 1], [0, 1, 2], [0, 1, 2]]
    admitted = [budget.admit(members, round=n) for n, members in enumerate(cohorts, start=1)]
    assert admitted == [[0, 1], [0, 2], [1], [2], []]


def test_a_client_whose_answer_was_lost_pays_again_for_the_filter_it_fits_again():
    scenario = compose([*TIGHT, "privacy.target_epsilon=null", "method.filter=dp_centroids"])
    ledger = Ledger()
    budget = Budget(scenario, ledger, n_rows=60)
    budget.admit([0, 1], round=1, informed=())
    budget.admit([0, 1], round=2, informed={0})
    fitted = [
        (client, charge.round)
        for charge in ledger.charges
        for client in charge.clients
        if charge.release.what == "choice of rows"
    ]
    record = [pair for pair in fitted if fitted.count(pair) == 2]
    assert sorted(set(record)) == [(0, 1), (1, 1), (1, 2)]


def test_without_a_target_nobody_is_left_out():
    scenario = compose([*TIGHT, "privacy.target_epsilon=null"])
    budget = Budget(scenario, Ledger(), n_rows=60)
    assert all(budget.admit([0], round=n) == [0] for n in range(1, 30))


def test_too_few_for_a_round_are_charged_nothing():
    ledger = Ledger()
    ledger.add(Charge(round=n, clients=(2,), release=_round_of_training()) for n in (1, 2))
    budget = Budget(compose(_within(2)), ledger, n_rows=60)
    before = len(ledger.charges)
    assert budget.admit([0, 1, 2], round=3, at_least=3) == [0, 1]
    assert len(ledger.charges) == before
    assert budget.admit([0, 1, 2], round=3, at_least=2) == [0, 1]
    assert len(ledger.charges) > before


def test_clients_that_a_round_costs_the_same_are_charged_in_one_line_each_release(tmp_path):
    """However many clients there are, and whoever of them is new or left out."""
    scenario = compose([*_within(3), "clients=40", "method.filter=dp_centroids"])
    ledger = Ledger(path=tmp_path / "ledger.jsonl")
    budget = Budget(scenario, ledger, n_rows=60, refused={7})
    budget.admit(range(1, 40), round=1, informed=())
    admitted = budget.admit([39, *range(39)], round=2, informed={*range(1, 40)})
    others = (*range(1, 7), *range(8, 40))
    assert admitted == [39, 0, *others[:-1]], "in the order they were asked in"
    for n, groups in ((1, {others}), (2, {(0,), others})):
        charged = [c for c in Ledger(path=ledger.path).charges if c.round == n]
        assert {charge.clients for charge in charged} == groups
        assert len({(c.clients, c.release) for c in charged}) == len(charged)


@pytest.mark.parametrize(("noise", "times"), [("null", 1), ("secret", 2)])
def test_a_round_that_is_done_again_is_charged_once_where_its_noise_comes_out_the_same(
    noise, times
):
    scenario = compose([*_within(9), "clients=9", f"seeds.noise={noise}"])
    ledger = Ledger()
    Budget(scenario, ledger, n_rows=60).admit([0, 1, 3], round=1, informed=())
    Budget(scenario, ledger, n_rows=60).admit([0, 1, 2, 3], round=1, informed=())
    spent = ledger.epsilons([0, 1, 2, 3], *GUARD, delta=1e-5)
    assert spent == [_cost(times), _cost(times), _cost(1), _cost(times)]


def test_what_a_round_costs_is_worked_out_for_all_clients_at_once(monkeypatch):
    asked: list[bool] = []

    def counted(scenario, *, n_rows, first):
        asked.append(first)
        return releases(scenario, n_rows=n_rows, first=first)

    monkeypatch.setattr("fedkd_server.budget.releases", counted)
    budget = Budget(compose([*_within(3), "clients=60"]), Ledger(), n_rows=60)
    budget.admit(range(40), round=1, informed=())
    budget.admit(range(60), round=2, informed={*range(40)})
    assert asked == [True, True, False]


def test_a_run_ends_cleanly_when_no_budget_is_left_and_says_so(tmp_path):
    summary = simulate(_within(2), out=tmp_path)
    assert (summary["status"], summary["rounds_done"], summary["left_out"]) == ("finished", 2, 3)
    assert summary["ended_early"] == "no client has privacy budget left for round 3"
    assert summary["accuracy_distilled_mean"] is not None
    assert summary["privacy_level"] == 2
    assert summary["epsilon"] == pytest.approx(_cost(2))


def test_clients_remember_across_runs_what_they_spent(tmp_path, play):
    def asked(n_rounds: int) -> list[int]:
        scenario = compose([*_within(3), f"rounds={n_rounds}"])
        fleet = fleet_in_memory(scenario, tmp_path / "ledgers")
        return [len(r.cohort) for r in play(scenario, fleet_for=lambda _: fleet)[1:]]

    assert asked(2) == [3, 3]
    first = Ledger(path=tmp_path / "ledgers" / "client-0.jsonl")
    assert first.epsilon(0, *GUARD, delta=1e-5) == _cost(2)
    assert asked(9) == [3, 0]


def _round_of_training() -> Release:
    unit, channel = GUARD
    event = SampledGaussian(0.25, 1.5, 4)
    return Release(what="earlier", unit=unit, channel=channel, event=event)


@pytest.mark.parametrize(
    ("n_spent", "rounds_done", "ended"),
    [
        (0, 4, None),
        (1, 4, None),
        (2, 2, "2 of 4 clients have privacy budget left for round 3, too few for masked sums"),
        (4, 2, "no client has privacy budget left for round 3"),
    ],
)
def test_masked_sums_end_cleanly_when_the_budget_leaves_too_few(
    tmp_path, n_spent, rounds_done, ended
):
    """Some clients spent two rounds' worth in an earlier run, as only their own ledgers know."""
    for client in range(n_spent):
        Ledger(path=tmp_path / "ledgers" / f"client-{client}.jsonl").add(
            [Charge(round=n, clients=(client,), release=_round_of_training()) for n in (1, 2)]
        )
    sums = ("server_view=sums", "n_min=3", "clients=4", "rounds=4")
    summary = simulate([*_within(4), *sums], out=tmp_path / "runs", ledgers=tmp_path / "ledgers")
    assert (summary["status"], summary["rounds_done"]) == ("finished", rounds_done)
    assert (summary["ended_early"] or "").startswith(ended or "")
    assert (summary["ended_early"] is None) == (ended is None)
    assert summary["accuracy_distilled_mean"] is not None
    assert summary["privacy_level"] == 2
    assert summary["left_out"] == (n_spent if ended else 2 * n_spent)
    assert summary["failures"] == 0


def test_a_client_refuses_by_itself_whatever_the_server_asks(tmp_path, play, monkeypatch):
    monkeypatch.setattr(Budget, "_within", lambda _, clients, due: clients)
    results = play(compose(_within(2)))
    assert [len(result.cohort) for result in results] == [0, 3, 3, 0]
    assert results[-1].left_out == [0, 1, 2]
    assert not results[-1].failures


def test_a_round_that_did_something_else_than_charged_uploads_nothing(play, monkeypatch):
    """As if a bug, or an engineer in a hurry, had left Poisson sampling or steps out."""
    from fedkd_clients.learner import FleetLearner

    monkeypatch.setattr(
        FleetLearner, "take_events", lambda *_: [SampledGaussian(0.5, 1.5, 4)], raising=True
    )
    from fedkd.errors import RunStopped

    with pytest.raises(RunStopped, match="Uncharged"):
        play(compose(_within(3)))


def test_secret_noise_differs_from_run_to_run_and_seeded_noise_does_not(tmp_path):
    words = [*TIGHT, "privacy.target_epsilon=null", "rounds=1"]
    seeded = {simulate(words, out=tmp_path)["result_hash"] for _ in range(2)}
    secret = {simulate([*words, "seeds.noise=secret"], out=tmp_path)["result_hash"] for _ in "ab"}
    assert (len(seeded), len(secret)) == (1, 2)
