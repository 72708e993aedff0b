"""Canaries are on record before training, and the record cannot change unnoticed."""

from __future__ import annotations

import json

import pytest

from fedkd.canaries.registered import registration
from fedkd.compose import compose
from fedkd.data.federation import planted
from fedkd.errors import ConfigError
from fedkd.run_files import read_canaries
from fedkd.run_folder import RunFolder

CANARIES = "canaries={insertions: [1, 3], per_level: 2, holders: 2}"


def test_they_are_on_record_before_anything_is_trained(tmp_path, tiny):
    scenario = tiny(CANARIES)
    path = RunFolder.create(tmp_path, scenario).path
    tree = json.loads((path / "canaries.json").read_text())
    assert "Private ground truth" in tree["warning"]
    assert tree["settings"]["family"] == {"name": "secret_label", "look": "random"}
    assert (tree["seed"], tree["n_secrets"]) == (0, 10)
    drawn = planted(scenario.layout()).canaries
    for told, canary in zip(read_canaries(path), drawn, strict=True):
        assert (told["number"], told["secret"]) == (canary.number, canary.secret)
        assert (told["insertions"], told["holders"]) == (canary.insertions, list(canary.holders))
        assert told["words"] == f"random input {canary.number} is class {canary.secret}"


def test_a_run_has_the_record_it_was_laid_out_by(simulated):
    outcome = simulated(CANARIES)
    found = read_canaries(outcome.path)
    assert [c["insertions"] for c in found] == [1, 1, 3, 3]
    assert outcome.summary["status"] == "finished"


def test_a_record_that_was_changed_is_refused(tmp_path, tiny):
    path = RunFolder.create(tmp_path, tiny(CANARIES)).path
    tree = json.loads((path / "canaries.json").read_text())
    tree["canaries"][0]["secret"] = (tree["canaries"][0]["secret"] + 1) % 10
    (path / "canaries.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="changed after the run began"):
        read_canaries(path)


def test_nothing_planted_is_nothing_on_record(tmp_path, tiny):
    path = RunFolder.create(tmp_path, tiny()).path
    assert not (path / "canaries.json").exists()
    assert read_canaries(path) == []
    with pytest.raises(ConfigError, match="null plants nothing"):
        registration(tiny())


def test_the_shipped_audit_plants_little_beside_its_data():
    scenario = compose(["scenario=swing_audit"])
    found = planted(scenario.layout())
    added, own = len(found.number), len(found.arrays.train_labels) - len(found.number)
    assert added == 10 * (1 + 4 + 16 + 64)
    assert added / own <= 0.2
    assert scenario.canaries is not None
    assert scenario.canaries.in_proxy
