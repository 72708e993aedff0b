"""The claims engine: each rung only on its preconditions, and never more than the ledger bears."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fedkd.compose import compose
from fedkd.errors import ConfigError
from fedkd.privacy.claims import claim
from fedkd.privacy.events import SampledGaussian, Unit
from fedkd.privacy.ledger import Channel, Charge, Ledger, Release
from fedkd.privacy.releases import releases
from fedkd.scenario import Scenario

EXTERNAL = ("data=digits", "models=mlp", "proxy={name: external, size: 50}", "rounds=3")
DP = ("scenario=dp_sgd", *EXTERNAL)
VOTES = (*EXTERNAL, "method=gnmax", "clients=100", "privacy.target_epsilon=8", "partition=iid")
GAUSSIAN = (*EXTERNAL, "method=fedmd", "protector=gaussian", "privacy.target_epsilon=8")


def _ran(scenario: Scenario, *, rounds: int = 3) -> tuple[Ledger, list[tuple[int, list[int]]]]:
    """Return the ledger and cohorts of a run of two clients."""
    ledger, cohorts = Ledger(), [(n, [0, 1]) for n in range(1, rounds + 1)]
    for n, cohort in cohorts:
        planned = releases(scenario, n_rows=50, first=n == 1)
        ledger.add(Charge(round=n, clients=tuple(cohort), release=r) for r in planned)
    return ledger, cohorts


def _said(*overrides: str, rounds: int = 3):
    scenario = compose(overrides)
    return claim(scenario, *_ran(scenario, rounds=rounds))


def test_without_anything_there_is_no_guarantee():
    said = _said("scenario=noniid_strong")
    assert (said.level, said.sentence, said.epsilon) == (0, "no formal guarantee", None)
    assert any("raw private examples" in warning for warning in said.warnings)


def test_dp_sgd_supports_a_record_level_sentence_with_its_numbers():
    said = _said(*DP)
    assert said.level == 2
    assert said.unit is Unit.RECORD
    assert 7.9 < said.epsilon <= 8
    assert said.sentence == (
        "each client's records have (8, 1e-05)-DP, adding or removing one, against the server "
        "and all other clients, for the whole run"
    )
    assert "add or remove" in said.neighboring


def test_the_epsilon_is_what_was_spent_so_far():
    assert _said(*DP, rounds=1).epsilon < _said(*DP, rounds=2).epsilon < _said(*DP).epsilon


def test_votes_support_a_client_level_sentence_that_names_the_trusted_server():
    said = _said(*VOTES)
    assert (said.level, said.unit) == (3, Unit.CLIENT)
    assert "trusting the server" in said.sentence
    assert said.epsilon <= 8


def test_calibrated_local_noise_supports_a_client_level_sentence_without_trust():
    said = _said(*GAUSSIAN)
    assert (said.level, said.unit) == (3, Unit.CLIENT)
    assert "against the server and" in said.sentence


def test_useful_noise_is_empirical_and_its_formal_epsilon_stands_beside_it():
    said = _said(*EXTERNAL, "method=fedmd", "protector=swing", "protector.noise_scale=0.1")
    assert said.level == 1
    assert said.epsilon is None
    assert said.sentence.startswith("empirical protection, no formal guarantee; client-level")
    number = float(said.sentence.split("alone: ")[1].split(" ")[0])
    mu = math.sqrt(2 * 50 * 3) / 0.1
    assert number == pytest.approx(mu**2 / 2, rel=0.1)


@pytest.mark.parametrize(
    "setting",
    ["server_temperature=told", "scorer=density"],
)
def test_noise_whose_scale_or_law_tells_something_has_no_epsilon(setting):
    said = _said(*EXTERNAL, "method=fedmd", "protector=swing", f"protector.{setting}")
    assert said.level == 1
    assert "unbounded" in said.sentence


@pytest.mark.parametrize("protector", ["{name: swing, noise_scale: 0}", "quantize", "topk_payload"])
def test_a_protector_without_noise_is_no_protection(protector):
    said = _said(*EXTERNAL, "method=fedmd", f"protector={protector}")
    assert (said.level, said.sentence) == (0, "no formal guarantee")


@pytest.mark.parametrize(
    "settings",
    [
        (*DP, "privacy.noise_multiplier=0.1", "privacy.target_epsilon=null"),
        (*VOTES[:-2], "privacy.target_epsilon=null", "method.aggregator.noise_multiplier=0.001"),
    ],
)
def test_an_epsilon_that_promises_nothing_is_no_guarantee(settings):
    said = _said(*settings)
    assert (said.level, said.epsilon) == (0, None)
    assert "too large to promise anything" in said.sentence


def test_swing_with_dp_sgd_is_covered_by_dp_sgd():
    assert _said(*DP, "protector=swing").level == 2
    with pytest.raises(ConfigError, match="reads private examples"):
        compose([*DP, "protector=swing", "protector.scorer=density"])


def test_dp_sgd_without_noise_claims_nothing_and_says_why():
    said = _said(*DP, "privacy.noise_multiplier=0", "privacy.target_epsilon=null")
    assert (said.level, said.epsilon) == (0, None)
    assert "DP-SGD without noise" in said.warnings[0]


def test_a_round_that_the_ledger_misses_costs_the_claim():
    scenario = compose(DP)
    ledger, cohorts = _ran(scenario)
    holed = Ledger(
        charges=[replace(c, clients=(0,)) if c.round == 2 else c for c in ledger.charges]
    )
    said = claim(scenario, holed, cohorts)
    assert said.level == 0
    assert "misses client 1 in round 2" in said.warnings[0]


def test_a_ledger_that_spent_more_than_planned_shows_it():
    scenario = compose(DP)
    ledger, cohorts = _ran(scenario)
    event = SampledGaussian(1.0, 0.5, 40)
    extra = Release(what="test", unit=Unit.RECORD, channel=Channel.UPLOAD, event=event)
    ledger.add([Charge(round=3, clients=(1,), release=extra)])
    said = claim(scenario, ledger, cohorts)
    assert (said.level, said.epsilon) == (0, None)
    assert "the formal epsilon 1" in said.sentence


def test_a_scenario_that_could_not_be_composed_gets_no_sentence():
    """As if a file had been edited by hand: the preconditions are checked again."""
    scenario = compose(DP)
    edited = replace(scenario)
    object.__setattr__(edited, "proxy", compose(["scenario=iid"]).proxy)
    assert claim(edited, *_ran(edited)).level == 0


def test_seeded_noise_is_named_and_secret_noise_is_not():
    assert any("scenario's seed" in warning for warning in _said(*DP).warnings)
    assert not any("scenario's seed" in w for w in _said(*DP, "seeds.noise=secret").warnings)


def test_masked_sums_are_never_called_secure_aggregation():
    said = _said("scenario=masked_sums")
    assert said.level == 0
    assert any(warning.startswith("masked sums") for warning in said.warnings)
    assert not any("secure aggregation" in warning for warning in said.warnings)


def test_masked_sums_say_what_a_spent_budget_shows():
    sums = "server_view=sums"
    for words in (("scenario=masked_sums",), (*DP, sums)):
        (line,) = [w for w in _said(*words).warnings if "budget is spent" in w]
        assert "can be subtracted" in line
    assert not any("subtracted" in warning for warning in _said(*DP).warnings)
    assert _said(*DP, sums).level == 2, "a warning costs no guarantee"


def test_calibrated_noise_in_a_chain_supports_the_sentence_of_the_noise_alone():
    chain = "protector={name: chain, parts: [gaussian, {name: quantize, bits: 8}]}"
    words = [word for word in GAUSSIAN if not word.startswith("protector=")]
    chained, alone = _said(*words, chain), _said(*GAUSSIAN)
    assert chained.level == 3
    assert (chained.sentence, chained.epsilon) == (alone.sentence, alone.epsilon)


def test_a_secret_in_many_examples_is_no_record_and_the_claim_says_so():
    planted = "canaries={insertions: [1, 16], per_level: 2, holders: 2}"
    note = "canaries: one secret is in up to 32 examples; the sentence is about each example"
    said = _said(*DP, planted)
    assert said.level == 2
    assert [w for w in said.warnings if w.startswith(note)]
    assert not [w for w in _said(*DP).warnings if w.startswith("canaries")]


@pytest.mark.parametrize("settings", [DP, GAUSSIAN])
def test_nothing_is_claimed_for_adversary_clients(settings):
    attacked = compose([*settings, "attack=loss_maximisation", "attack.clients=[1]"])
    ledger, cohorts = _ran(attacked)
    said = claim(attacked, ledger, cohorts)
    assert said.sentence.startswith("each honest client")
    assert said.warnings[0].startswith("clients [1] are adversaries")
    assert not any("adversaries" in warning for warning in _said(*settings).warnings)
    event = SampledGaussian(0.1, 0.9, 4000)
    unit, channel = (said.unit, Channel.UPLOAD)
    boundless = Release(what="test", unit=unit, channel=channel, event=event)
    ledger.add([Charge(round=3, clients=(1,), release=boundless)])
    assert claim(attacked, ledger, cohorts).epsilon == said.epsilon, "client 1 is no part of it"
    ledger.add([Charge(round=3, clients=(0,), release=boundless)])
    assert claim(attacked, ledger, cohorts).epsilon is None


def test_the_noise_of_an_empirical_claim_is_that_of_honest_clients():
    noisy = (*EXTERNAL, "method=fedmd", "protector=swing", "attack=loss_maximisation")
    said = _said(*noisy, "clients=3", "attack.clients=[1]")
    assert said.level == 1
    assert "clients [1] are adversaries" in said.warnings[0]
