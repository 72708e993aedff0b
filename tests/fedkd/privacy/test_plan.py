"""The plan: noise from a target, the same everywhere, and a refusal where noise is all there is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from torch import nn

from fedkd.compose import compose
from fedkd.errors import ConfigError
from fedkd.models.base import Model, models
from fedkd.privacy.accounting import epsilon
from fedkd.privacy.plan import noiseless, planned, proxy_rows, run_events
from fedkd.privacy.settings import Privacy
from fedkd.reports.privacy_plan import plan, print_plan
from fedkd.scenario import Scenario, from_json, scenario_hash, to_json

EXTERNAL = "proxy={name: external, size: 100}"
DP = ("scenario=dp_sgd", "data=digits", "models=mlp", EXTERNAL, "rounds=4")


def test_the_whole_run_stays_within_the_target_and_close_to_it():
    scenario = compose([*DP, "privacy.target_epsilon=3"])
    total = epsilon(run_events(scenario), delta=1e-5)
    assert 2.9 < total <= 3


def test_more_rounds_mean_more_noise_a_round():
    few, many = (compose([*DP, f"rounds={n}"]).privacy.noise_multiplier for n in (2, 8))
    assert few < many


def test_a_scenario_made_in_python_is_planned_like_a_composed_one():
    composed = compose(DP)
    bare = replace(composed, privacy=Privacy(dp_sgd=True, target_epsilon=8))
    assert bare.privacy.noise_multiplier is None
    assert planned(bare) == composed == planned(composed)


def test_the_noise_travels_with_the_scenario():
    scenario = compose(DP)
    assert from_json(to_json(scenario)) == scenario
    louder = compose([*DP, "privacy.target_epsilon=2"])
    assert scenario_hash(scenario) != scenario_hash(louder)


def test_noise_that_is_given_stays():
    given = compose([*DP, "privacy.noise_multiplier=0.7", "privacy.target_epsilon=null"])
    assert given.privacy.noise_multiplier == 0.7


def test_dp_sgd_without_noise_or_target_is_refused():
    with pytest.raises(ConfigError, match=r"privacy\.target_epsilon=8"):
        compose([*DP, "privacy.target_epsilon=null"])


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("proxy=pooled", "proxy=external"),
        ("method=edgefd", "method.filter=dp_centroids"),
        ("method=oracle_filter", "oracle"),
        ("partition={name: resample, rows: 20}", "such as iid"),
    ],
)
def test_what_gets_around_the_accountant_is_refused_with_its_remedy(override, remedy):
    with pytest.raises(ConfigError, match=remedy):
        compose([*DP, override])


def test_a_target_that_nothing_keeps_is_refused():
    with pytest.raises(ConfigError, match=r"privacy\.target_epsilon: 8 is asked for"):
        Scenario(privacy=Privacy(target_epsilon=8))


@dataclass(frozen=True)
class BatchNormed(Model):
    """A model with what DP-SGD cannot bound."""

    def build(self, input_shape, n_classes):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def test_batch_norm_is_refused_by_name_before_anything_is_trained():
    models.register("batch_normed")(BatchNormed)
    try:
        with pytest.raises(ConfigError, match=r"BatchNorm1d at '2'.*GroupNorm"):
            compose([*DP, "models=batch_normed"])
        assert compose([*DP, "models=batch_normed", "privacy.dp_sgd=false", NO_TARGET]).clients
    finally:
        del models._classes["batch_normed"]


NO_TARGET = "privacy.target_epsilon=null"


def test_a_recurrent_layer_is_refused_by_name_before_anything_is_trained():
    text = ["data=gutenberg_mini", "partition=natural", "clients=4", "method=fedmd"]
    with pytest.raises(ConfigError, match=r"'gru_char' has GRU at 'recurrent'.*transformer_char"):
        compose([*DP, *text, "models=gru_char"])
    assert compose([*DP, *text, "models=transformer_char"]).privacy.noise_multiplier


def test_a_vote_too_small_for_its_noise_is_refused_with_the_number():
    words = ["scenario=iid", "proxy=external", "method=gnmax", "privacy.target_epsilon=8"]
    with pytest.raises(ConfigError, match=r"K = 10 clients and 1,000 rows.* 8\d % of the time"):
        compose([*words, "rounds=1"])


def test_a_vote_large_enough_is_planned():
    words = ["data=digits", "models=mlp", "method=gnmax", "proxy={name: external, size: 50}"]
    scenario = compose([*words, "clients=100", "rounds=2", "privacy.target_epsilon=8"])
    assert proxy_rows(scenario) == 50
    assert 7.8 < epsilon(run_events(scenario), delta=1e-5) <= 8


def test_noiseless_takes_everything_formal_away():
    for words in (DP, ("scenario=gnmax_100_clients",), ("scenario=swing",)):
        bare = noiseless(compose(words))
        assert not bare.privacy.dp_sgd
        assert bare.privacy.target_epsilon is None
        assert planned(bare) == bare


CHAINED = (
    *("data=digits", "models=mlp", EXTERNAL, "rounds=4", "method=fedmd"),
    "privacy.target_epsilon=8",
)


def _parts(*parts: str) -> str:
    return f"protector={{name: chain, parts: [{', '.join(parts)}]}}"


@pytest.mark.parametrize(
    "chain",
    [
        _parts("gaussian", "{name: quantize, bits: 8}"),
        _parts("{name: chain, parts: [gaussian]}", "topk_payload"),
    ],
)
def test_noise_inside_a_chain_is_worked_out_like_noise_alone(chain):
    alone, chained = compose([*CHAINED, "protector=gaussian"]), compose([*CHAINED, chain])
    first = chained.protector.parts[0]
    first = getattr(first, "parts", (first,))[0]
    assert first == alone.protector
    assert first.noise_multiplier is not None
    total = epsilon(run_events(chained), delta=1e-5)
    assert 7.9 < total <= 8
    assert total == epsilon(run_events(alone), delta=1e-5)
    assert chained.protector.parts[1:] != (), "what follows is kept"


def test_noise_inside_a_chain_that_is_given_stays():
    chain = _parts("{name: gaussian, noise_multiplier: 3.5}", "quantize")
    given = compose([*CHAINED[:-1], chain])
    assert given.protector.parts[0].noise_multiplier == 3.5


def test_a_chain_that_reads_private_examples_has_no_noise_that_keeps_a_target():
    swing = "{name: swing, scorer: density}"
    with pytest.raises(ConfigError, match=r"target_epsilon: 8 is asked for, but nothing here"):
        compose([*CHAINED, _parts("gaussian", swing)])


def test_the_plan_says_what_projecting_noise_will_move(capsys):
    words = ["scenario=swing", "data=digits", "models=mlp", EXTERNAL]
    found = plan(compose([*words, "protector.noise_scale=0.1"]))
    least, most = found["projected_mass"]
    assert 0.05 < least < 0.2 < most < 0.4
    print_plan(found, None)
    assert "(even row) to" in " ".join(capsys.readouterr().out.split())
    assert plan(compose([*words, "protector.noise_scale=0"]))["projected_mass"] is None
    assert plan(compose(DP))["projected_mass"] is None
