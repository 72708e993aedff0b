"""Whole runs with adversary clients: what they break, and what bears it."""

from __future__ import annotations

import pytest

from fedkd.adversaries.base import adversaries

CROWD = ("clients=7", "models=mlp", "method=fedmd", "rounds=3", "data.limit=700")
LMA = "attack={name: loss_maximisation, clients: 2}"


def test_nobody_and_no_strength_are_the_run_without_an_attack_bit_by_bit(simulated):
    plain = simulated("method=fedmd").summary["result_hash"]
    for attack in ("{name: sybil, clients: 0}", "{name: replay, strength: 0}"):
        assert simulated("method=fedmd", f"attack={attack}").summary["result_hash"] == plain


@pytest.mark.parametrize("name", adversaries.names())
def test_every_attack_runs_passes_validation_and_changes_the_consensus(simulated, name):
    plain, attacked = simulated("method=fedmd"), simulated("method=fedmd", f"attack={name}")
    assert attacked.summary["failures"] == 0
    assert attacked.digests()[-1] != plain.digests()[-1]


@pytest.mark.parametrize("name", ["cosine_filter", "geometric_median", "median", "multikrum"])
def test_two_liars_of_seven_turn_the_mean_and_no_robust_consensus(simulated, name):
    honest = simulated(*CROWD).summary["teacher_accuracy"]
    fooled = simulated(*CROWD, LMA).summary["teacher_accuracy"]
    robust = simulated(*CROWD, LMA, f"method.aggregator={name}").summary["teacher_accuracy"]
    assert fooled < honest - 0.1
    assert robust > fooled + 0.05


@pytest.mark.parametrize(
    "protector", ["{name: gaussian, noise_multiplier: 1.0}", "swing", "{name: topk_payload, k: 2}"]
)
def test_an_adversary_under_a_protector_passes_validation_and_sends_its_lie(simulated, protector):
    run = simulated("method=fedmd", f"protector={protector}", "attack=loss_maximisation")
    assert run.summary["failures"] == 0


def test_an_adversary_is_masked_like_any_other_client(simulated):
    sums = ("method=fedmd", "server_view=sums", "attack=loss_maximisation")
    seen = simulated("method=fedmd", "attack=loss_maximisation").summary["teacher_accuracy"]
    assert simulated(*sums).summary["teacher_accuracy"] == pytest.approx(seen, abs=0.01)
