"""Every shipped scenario's smallest honest run goes through."""

from __future__ import annotations

import pytest

from fedkd.compose import compose, shipped
from fedkd.privacy.settings import ServerView
from fedkd.run_files import read_metrics, read_summary
from fedkd.simulation import simulate


@pytest.mark.parametrize("name", shipped())
def test_its_smoke_block_runs(name, tmp_path):
    scenario = compose([f"scenario={name}"], smoke=True)
    summary = simulate(scenario, out=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert summary["run_dir"] == str(folder)
    assert (summary["status"], summary["rounds_done"]) == ("finished", scenario.rounds)
    assert (summary["failures"] == 0) == (scenario.faults is None)
    if scenario.server_view is ServerView.UPLOADS:
        assert summary["coverage"] == 1.0
    else:
        assert summary["coverage"] > 0.5  # rows that fewer than n_min clients kept are absent
    assert 0 < summary["accuracy_worst"] <= summary["accuracy_mean"] + 1e-9  # rounding of a mean
    assert summary["accuracy_mean"] <= 1
    assert summary["teacher_accuracy"] > 0.1  # chance
    assert read_summary(folder)["result_hash"] == summary["result_hash"]
    table = read_metrics(folder)
    measured = table[(table.name == "accuracy") & (table["round"] == scenario.rounds)]
    seen = set(measured.client)
    if scenario.faults is not None:  # who never answered was never given the proxy set
        assert len(seen) > scenario.clients // 2
    elif scenario.cohort is None:
        assert seen == set(range(scenario.clients))
    else:
        assert scenario.cohort <= len(seen) <= scenario.rounds * scenario.cohort
