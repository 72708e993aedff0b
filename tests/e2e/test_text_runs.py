"""Whole runs on text: distillation makes character models better, whatever goes with text works."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedkd.compose import compose
from fedkd.data.federation import planted
from fedkd.simulation import simulate

SMALL = (
    *("data={name: gutenberg_mini, limit: 96, window: 40}", "partition=natural", "clients=4"),
    *("models=gru_char", "rounds=2", "training.batch_size=16", "measure_every=2"),
    *("method={name: fedmd, distiller: {temperature: 1}}", "server_model=gru_char"),
)
SWING = (
    "protector={name: swing, temperature_max: 20, noise_scale: 0.3, noise_law: proportional, "
    "scorer: {name: detector, symbols: '0123456789#'}}"
)
CANARIES = "canaries={family: code, insertions: [2, 4], per_level: 2, in_proxy: true}"


def _runs(tmp_path, *overrides: str):
    summary = simulate([*SMALL, *overrides], out=tmp_path)
    assert summary["status"] == "finished"
    assert summary["failures"] == 0
    for key in ("bits_per_character_mean", "bits_per_character_local_mean"):
        assert 2 < summary[key] < math.log2(76)
    return summary


def test_canaries_a_protector_and_a_student_go_through(tmp_path):
    plain = _runs(tmp_path, CANARIES)
    swung = _runs(tmp_path, CANARIES, SWING)
    assert plain["coverage"] == swung["coverage"] == 1.0
    assert 2 < plain["server_bits_per_character"] < math.log2(76)
    assert plain["bytes_up"] == swung["bytes_up"]
    assert plain["result_hash"] != swung["result_hash"]
    again = simulate([*SMALL, CANARIES, SWING], out=tmp_path)
    assert again["result_hash"] == swung["result_hash"]


def test_own_only_speaks_about_its_own_windows(tmp_path):
    summary = _runs(tmp_path, "method=own_only")
    assert summary["coverage"] == 1.0
    assert summary["keepers_per_row"] == pytest.approx(1.0)


def test_masked_sums_teach_what_uploads_teach(tmp_path):
    uploads = _runs(tmp_path)
    sums = _runs(tmp_path, "server_view=sums")
    assert sums["coverage"] == 1.0
    for key in ("bits_per_character_mean", "server_bits_per_character"):
        assert sums[key] == pytest.approx(uploads[key], abs=0.02)


def test_an_external_proxy_set_and_a_transformer_go_through(tmp_path):
    external = "proxy={name: external, size: 24}"
    summary = _runs(tmp_path, external, "models=transformer_char", "server_model=transformer_char")
    assert summary["coverage"] == 1.0


def test_distillation_improves_every_clients_held_out_text(tmp_path):
    """Equal private steps with and without: fewer bits on all authors, and on the client's own."""
    budget = (
        *("data={name: gutenberg_mini, limit: 256, window: 32}", "proxy.fraction=0.5"),
        *("training.local_epochs=8", "rounds=4", "measure_every=4"),
        *("training.learning_rate=0.003", "server_model=null"),
    )
    taught = _runs(tmp_path, *budget)
    alone = _runs(tmp_path, *budget, "method=local")
    for key, gain in (("bits_per_character_mean", 0.15), ("bits_per_character_local_mean", 0.1)):
        assert taught[key] < alone[key] - gain, (key, taught[key], alone[key])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_shipped_audit_scenario_plants_what_it_says(seed):
    scenario = compose(["scenario=lm_canary", f"seed={seed}"])
    found = planted(scenario.layout())
    arrays, family = found.arrays, scenario.canaries.family
    lines = [family.words(arrays, canary) for canary in found.canaries]
    assert len(set(lines)) == len(lines) == 20
    rows = ["".join(arrays.words[token] for token in row) for row in arrays.train_inputs]
    for canary, line in zip(found.canaries, lines, strict=True):
        whole = sum(f"\n{line}" in row for row in rows)
        assert canary.insertions * 0.6 <= whole <= canary.insertions * len(canary.holders)
    assert np.unique(found.holder).size == scenario.clients
