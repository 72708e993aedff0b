"""Whole runs with faults: on every grid the same, told by client and round, and never a crash."""

from __future__ import annotations

import json

import pytest
from fedkd_server.rounds import run_rounds
from flwr.supercore.task_identity import TaskIdentity

from fedkd.errors import RunStopped
from fedkd.privacy.ledger import Ledger
from fedkd.reports.run.report import write_run_report
from fedkd.results import Loss, RoundResult, result_hash
from fedkd.scenario import Scenario
from fedkd.simulation import simulation_grid

FAULTS = {
    "drop": "drop: 0.3",
    "delay": "delay_s: [0, 2]",
    "duplicate": "duplicate: 0.5",
    "reorder": "reorder: true",
    "truncate": "truncate: 0.3",
    "corrupt": "corrupt: 0.5",
    "replay": "replay: 0.7",
    "crash": "crash: {client: 1, round: 2}",
    "straggle": "delay_s: [0.5, 1], straggle: {share: 0.5, factor: 4}",
}
HARMLESS = ("duplicate", "reorder", "replay", "nothing")


@pytest.fixture(scope="module")
def faulty(tiny):
    def make(faults: str, *overrides: str) -> Scenario:
        small = ("clients=5", "rounds=3", "method=fedmd", "min_completion=0.1", *overrides)
        return tiny(*small, f"faults={{{faults}}}")

    return make


def _run(scenario: Scenario, *, workers: int) -> list[RoundResult]:
    grid = simulation_grid(scenario, n_workers=workers)
    TaskIdentity.task_id = TaskIdentity.run_id = grid.run.run_id
    TaskIdentity.node_id = 0
    try:
        return list(run_rounds(grid, scenario))
    finally:
        grid.close()


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("method", ["fedmd", "fedavg"])
def test_a_fault_is_the_same_on_every_grid_and_over_messages(play, faulty, name, method):
    scenario = faulty(FAULTS[name], f"method={method}", "deadline_s=1.5")
    runs = [_run(scenario, workers=n) for n in (1, 2, 3)]
    runs.append(play(scenario))
    assert len({result_hash(run) for run in runs}) == 1
    told = [[(r.failures, r.refused, r.stood_in) for r in run] for run in runs]
    assert told.count(told[0]) == len(told)
    assert any(f or refused for f, refused, _ in told[0]) == (name != "reorder")


def test_devices_and_all_faults_at_once_are_the_same_on_every_grid_too(play, faulty):
    devices = "devices=[raspberry_pi_4,{name: phone, availability: {on_share: 0.6, on_rounds: 3}}]"
    faults = "drop: 0.1, delay_s: [0, 2], duplicate: 0.2, reorder: true, truncate: 0.1, replay: 0.3"
    late = ("deadline_s=1.2", "late_policy=next_round", "clients=8", "rounds=4")
    scenario = faulty(faults, devices, *late)
    runs = [_run(scenario, workers=1), _run(scenario, workers=3), play(scenario)]
    assert len({result_hash(run) for run in runs}) == 1
    reasons = {f.reason for r in runs[0] for f in r.failures}
    assert reasons >= {"DeviceOff", Loss.NO_ANSWER.value, Loss.LATE.value}
    names = {m.name for r in runs[0] for m in r.measurements}
    assert names >= {"virtual_seconds", "energy_j", "device_seconds", "device_energy_j"}
    assert any(r.stood_in for r in runs[0])


@pytest.mark.parametrize("name", HARMLESS)
def test_what_arrives_besides_changes_nothing_but_is_refused_with_its_reason(faulty, tiny, name):
    run = _run(faulty(FAULTS.get(name, "drop: 0")), workers=1)
    plain = _run(tiny("clients=5", "rounds=3", "method=fedmd", "min_completion=0.1"), workers=1)
    assert result_hash(run) == result_hash(plain)
    reason = {"duplicate": {Loss.SECOND.value}, "replay": {Loss.OTHER_ROUND.value}}
    refused = [f for r in run for f in r.refused]
    assert {f.reason for f in refused} == reason.get(name, set())
    assert all(f.round > 1 for f in refused) or name == "duplicate"
    assert not [f for r in run for f in r.failures]


def test_a_dropped_upload_was_trained_and_paid_for(simulated):
    lost = simulated("clients=4", "method=fedmd", "faults={drop: 0.4}", "min_completion=0.1")
    kept = simulated("clients=4", "method=fedmd", "min_completion=0.1")
    failures = [f for event in lost.events() for f in event["failures"]]
    assert failures
    assert {f["reason"] for f in failures} == {"no answer"}
    paid = [
        {
            (client, charge.round, charge.release)
            for charge in ledger.charges
            for client in charge.clients
        }
        for ledger in (Ledger(path=o.path / "ledger.jsonl") for o in (lost, kept))
    ]
    assert paid[0] >= paid[1] != set()
    first = {c: v for c, v in _accuracies(lost, 1).items() if c in _accuracies(kept, 1)}
    assert first
    assert all(_accuracies(kept, 1)[client] == value for client, value in first.items())
    sent = [o.summary["bytes_by_kind"]["up"]["knowledge"] for o in (lost, kept)]
    assert sent[0] == sent[1] * (8 - len(failures)) // 8


def _accuracies(outcome, n_round: int) -> dict[int, float]:
    table = outcome.metrics()
    rows = table[(table["name"] == "accuracy") & (table["round"] == n_round)]
    return dict(zip(rows["client"], rows["value"], strict=True))


def test_a_crashed_client_is_back_in_the_next_round(faulty):
    run = _run(faulty(FAULTS["crash"]), workers=1)
    told = [[(f.client, f.reason) for f in r.failures] for r in run]
    assert told == [[], [], [(1, "ClientCrashed")], []]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["fedmd", "edgefd_soft", "fedavg"])
def test_damaged_bytes_never_end_a_run(faulty, method, seed):
    faults = "corrupt: 0.5, truncate: 0.1, duplicate: 0.3, replay: 0.3, reorder: true"
    scenario = faulty(faults, f"method={method}", "clients=6", f"seed={seed}")
    run = _run(scenario, workers=1)
    reasons = [f.reason for r in run for f in r.failures]
    assert reasons
    assert all(r.startswith(("unreadable reply (", "dropped: ")) for r in reasons)


def test_below_the_quorum_the_run_stops_and_says_so(faulty):
    with pytest.raises(RunStopped, match=r"1: \d usable uploads of 5 clients, below quorum=5"):
        _run(faulty("drop: 0.3", "quorum=5"), workers=1)
    assert _run(faulty("drop: 0.3", "quorum=1"), workers=1)


SLOW = "delay_s: [0.6, 1.3], straggle: {share: 0.3, factor: 1.6}"
LATE = ("deadline_s=1", "clients=8", "rounds=3")


def test_a_late_upload_is_dropped_or_stands_in_next_round(faulty):
    faults = SLOW
    dropped = _run(faulty(faults, *LATE), workers=1)
    kept = _run(faulty(faults, *LATE, "late_policy=next_round"), workers=1)
    late = [{f.client for f in r.failures if f.reason == Loss.LATE.value} for r in dropped]
    assert late == [{f.client for f in r.failures} for r in kept]
    assert all(late[1:])
    assert [r.stood_in for r in dropped] == [[]] * 4
    assert [set(r.stood_in) for r in kept[2:]] == [late[1] & late[2], late[2] & late[3]]
    assert kept[2].stood_in
    assert len(kept[2].stood_in) < len(late[2])
    assert kept[1].digest == dropped[1].digest
    assert kept[2].digest != dropped[2].digest
    assert result_hash(kept) == result_hash(_run_again(faulty, faults))


def _run_again(faulty, faults: str) -> list[RoundResult]:
    return _run(faulty(faults, *LATE, "late_policy=next_round"), workers=2)


def test_a_stand_in_is_used_as_if_it_had_come_in_that_round(faulty):
    """The consensus with it is that of the uploads in the transcript, it among them."""
    scenario = faulty(SLOW, *LATE, "late_policy=next_round", "transcript=all")
    results = _run(scenario, workers=1)
    told, stood_in = results[2].traffic.uploads, results[2].stood_in
    assert set(stood_in) <= set(told)
    assert set(told) == set(range(8)) - {f.client for f in results[2].failures} | set(stood_in)
    late = results[1].failures
    assert {f.client for f in late} >= set(stood_in)


def test_the_report_names_every_lost_upload_and_every_refused_one(simulated):
    done = simulated(
        "clients=5", "rounds=3", "method=fedmd", "min_completion=0.1", "deadline_s=1.9",
        "late_policy=next_round",
        "faults={drop: 0.2, delay_s: [0, 2], duplicate: 0.3, replay: 0.5}",
    )  # fmt: skip
    events = done.events()
    assert sum(len(e["refused"]) for e in events) == done.summary["refused"] > 0
    assert sum(len(e["stood_in"]) for e in events) == done.summary["stood_in"]
    assert {e["round"] for e in events if e["failures"]} >= {1}
    page = write_run_report(done.path).read_text(encoding="utf-8")
    for reason in {f["reason"] for e in events for f in e["failures"] + e["refused"]}:
        assert reason in page
    assert json.loads((done.path / "summary.json").read_text())["refused"] > 0
