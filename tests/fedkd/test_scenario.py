"""A scenario survives storage, has one name for its results, and refuses what cannot run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fedkd.data.proxies.external import External
from fedkd.errors import ConfigError
from fedkd.methods.base import methods
from fedkd.methods.centralised import Centralised
from fedkd.methods.fedavg import FedAvg
from fedkd.models.mlp import MLP
from fedkd.registry import build
from fedkd.runtime import Device, Runtime, Seeds
from fedkd.scenario import Scenario, from_json, scenario_hash, to_json
from fedkd.training.recipe import Order, Training
from fedkd.types import Wire

RICH = Scenario(
    name="rich",
    clients=5,
    cohort=3,
    models={"mlp": 2, "cnn_small": 3},
    proxy=External(size=70),
    server_model=MLP(hidden=7),
    training=Training(order=Order.SEQUENTIAL, learning_rate=0.125),
    seeds=Seeds(partition=4),
    runtime=Runtime(device=Device.AUTO, threads=2),
)


@pytest.mark.parametrize("scenario", [Scenario(), RICH])
def test_it_survives_being_stored(scenario):
    text = to_json(scenario)
    assert from_json(text) == scenario
    assert to_json(from_json(text)) == text
    assert json.loads(text)["schema"] == 1


@pytest.mark.parametrize("name", methods.names())
def test_it_survives_with_every_method(name):
    scenario = Scenario(method=methods.get(name)())
    assert from_json(to_json(scenario)) == scenario


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("{}", "schema None"),
        ('{"schema": 2}', "schema 2; this fedkd reads 1"),
        ('{"schema": 1, "round": 3}', "round: unknown key 'round'; did you mean 'rounds'"),
        ('{"schema": 1, "rounds": 0}', "rounds: 0 is refused"),
        ('{"schema": 1, "rounds": true}', "rounds: True is a truth value"),
        ('{"schema": 1, "method": {"name": "edgfd"}}', "method: no method called 'edgfd'"),
        (
            '{"schema": 1, "method": {"name": "edgefd", "filter": {"name": "kmeans", "quantl":1}}}',
            "method.filter.quantl: unknown key 'quantl'; did you mean 'quantile'",
        ),
    ],
)
def test_stored_nonsense_is_refused_by_path_and_value(text, words):
    with pytest.raises(ConfigError) as error:
        from_json(text)
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"'])
def test_json_that_is_no_mapping_is_refused(text):
    with pytest.raises(ConfigError):
        from_json(text)


def test_the_hash_names_what_can_change_results():
    base = scenario_hash(Scenario())
    assert base == scenario_hash(Scenario())
    assert len(base) == 16
    for same in (
        Scenario(name="other"),
        Scenario(description="words"),
        Scenario(runtime=Runtime(threads=7, device=Device.AUTO)),
    ):
        assert scenario_hash(same) == base
    others = [
        Scenario(seed=1),
        Scenario(rounds=21),
        Scenario(cohort=9),
        Scenario(models="mlp"),
        Scenario(method=FedAvg()),
        Scenario(proxy=External()),
        Scenario(seeds=Seeds(training=1)),
        Scenario(training=Training(ce_weight=0.25)),
        Scenario(measure_every=2),
    ]
    assert len({scenario_hash(s) for s in others} | {base}) == len(others) + 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cohort": 11}, "cohort: 11 is more than clients=10"),
        ({"models": "mpl"}, "models: no model called 'mpl'; did you mean 'mlp'"),
        ({"models": {"mlp": 9}}, "assigns 9 clients, but clients=10"),
        ({"models": {"mlp": 11, "cnn_small": -1}}, "models.cnn_small: -1 clients"),
    ],
)
def test_what_cannot_run_is_refused_before_training(settings, words):
    with pytest.raises(ConfigError) as error:
        Scenario(**settings)
    assert words in str(error.value)


def test_parameters_of_two_architectures_are_never_averaged():
    with pytest.raises(ConfigError, match="mixes architectures"):
        Scenario(models={"mlp": 5, "cnn_small": 5}, method=FedAvg())
    assert Scenario(models={"mlp": 10, "cnn_small": 0}, method=FedAvg()).client_models() == (
        ["mlp"] * 10
    )


def test_architectures_are_dealt_by_name_so_that_stored_scenarios_deal_alike():
    dealt = ["cnn_small", "cnn_small", "cnn_small", "mlp", "mlp"]
    assert RICH.client_models() == dealt
    assert from_json(to_json(RICH)).client_models() == dealt
    assert Scenario(clients=2).client_models() == ["cnn_small", "cnn_small"]


def test_a_control_that_pools_everything_has_one_participant():
    assert Scenario(clients=4).participants() == [0, 1, 2, 3]
    assert Scenario(clients=4, method=Centralised()).participants() == [0]


def test_each_seed_stands_alone():
    base = Scenario(seed=5)
    assert {base.partition_seed(), base.initialization_seed(), base.training_seed()} == {5}
    apart = replace(base, seeds=Seeds(partition=0, training=8))
    assert apart.partition_seed() == 0
    assert apart.initialization_seed() == 5
    assert apart.training_seed() == 8
    assert apart.layout() == replace(base, seeds=Seeds(partition=0)).layout()
    assert apart.layout() != base.layout()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds", 0),
        ("clients", 0),
        ("seed", -1),
        ("local_test_fraction", 1),
        ("min_completion", 0),
        ("min_completion", 1.5),
        ("measure_every", 0),
        ("rounds", 2.5),
        ("rounds", "many"),
    ],
)
def test_values_out_of_range_are_quoted(key, value):
    with pytest.raises(ConfigError) as error:
        build(Scenario, {key: value}, path="")
    assert str(error.value).startswith(f"{key}: {value!r} is refused: ")


def test_a_wire_format_changes_results_and_needs_scores_to_send():
    assert scenario_hash(Scenario(wire=Wire.BFLOAT16)) != scenario_hash(Scenario())
    assert from_json(to_json(Scenario(wire=Wire.FLOAT16))).wire is Wire.FLOAT16
    for method in (FedAvg(), Centralised()):
        with pytest.raises(ConfigError, match="wire: this method sends no scores"):
            Scenario(method=method, wire=Wire.FLOAT16)
