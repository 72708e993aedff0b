"""Override grammar: what a command line says is what the scenario is, or one line says why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedkd.aggregators.selective_mean import SelectiveMean
from fedkd.compose import DEFAULT_SCENARIO, compose, read_file, shipped
from fedkd.data.datasets.digits import Digits
from fedkd.data.partitioners.dirichlet import Dirichlet
from fedkd.data.partitioners.pathological import Pathological
from fedkd.data.proxies.external import External
from fedkd.errors import ConfigError
from fedkd.features.raw import Raw
from fedkd.filters.keep_all import KeepAll
from fedkd.filters.kmeans import KMeansFilter
from fedkd.methods.edgefd import EdgeFD
from fedkd.methods.fedmd import FedMD
from fedkd.models.mlp import MLP
from fedkd.privacy.plan import noiseless
from fedkd.protectors.none import NoProtection
from fedkd.protectors.swing import Swing
from fedkd.registry import describe
from fedkd.scenario import Scenario
from fedkd.scorers.detector import Detector
from fedkd.training.recipe import OptimizerName


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_scenario_composes_whole_and_small(name):
    whole, small = compose([f"scenario={name}"]), compose([f"scenario={name}"], smoke=True)
    assert whole.name == small.name == name
    assert whole.description
    assert "smoke" in read_file(name)
    assert small.rounds < whole.rounds
    assert noiseless(small).method == noiseless(whole).method  # fewer rounds need less noise


def test_nothing_said_is_the_default_scenario():
    assert compose() == compose([f"scenario={DEFAULT_SCENARIO}"])
    assert compose().partition == Pathological(classes_per_client=1)


def test_scalars_at_any_depth():
    scenario = compose(
        ["rounds=3", "method.filter.quantile=0.25", "training.optimizer=sgd", "cohort=null"]
    )
    assert scenario.rounds == 3
    assert scenario.method == EdgeFD(filter=KMeansFilter(quantile=0.25))
    assert scenario.training.optimizer is OptimizerName.SGD
    assert scenario.cohort is None


def test_naming_a_component_starts_from_its_defaults():
    scenario = compose(["scenario=dirichlet", "partition=pathological", "method=fedmd"])
    assert scenario.partition == Pathological()
    assert scenario.method == FedMD()


def test_the_order_of_words_is_irrelevant():
    words = ["method.filter.features=raw", "method.filter=kmeans", "method=edgefd", "rounds=4"]
    assert compose(words) == compose(list(reversed(words)))
    assert compose(words).method == EdgeFD(filter=KMeansFilter(features=Raw()))


def test_a_mapping_without_a_name_changes_what_is_there():
    scenario = compose(["partition={classes_per_client: 3}", "proxy={name: external, size: 7}"])
    assert scenario.partition == Pathological(classes_per_client=3)
    assert scenario.proxy == External(size=7)


def test_slots_of_slots():
    scenario = compose(["method.aggregator={name: selective_mean, ambiguity: 1.5}"])
    assert scenario.method == EdgeFD(aggregator=SelectiveMean(ambiguity=1.5))
    assert compose(["method.filter=keep_all"]).method == EdgeFD(filter=KeepAll())


def test_models_replace_and_never_merge():
    scenario = compose(["scenario=mixed_models", "models={mlp: 10}"])
    assert scenario.models == {"mlp": 10}
    assert compose(["scenario=mixed_models", "models=mlp"]).client_models() == ["mlp"] * 10


def test_an_optional_slot_can_be_filled_and_emptied():
    assert compose(["server_model=mlp"]).server_model == MLP()
    assert compose(["server_model={name: mlp, hidden: 9}"]).server_model == MLP(hidden=9)
    assert compose(["server_model=mlp", "server_model=null"]).server_model is None


def test_the_smoke_block_gives_way_to_what_is_said():
    assert compose(["rounds=5"], smoke=True).rounds == 5
    assert compose(["data=digits"], smoke=True).data == Digits()


def test_the_last_word_about_a_key_counts():
    assert compose(["rounds=3", "rounds=4"]).rounds == 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["scenario=noniid_stron"], "scenario: no scenario called 'noniid_stron'; did you mean"),
        (["scenario=there.yaml"], "scenario: no file 'there.yaml'"),
        (["round=3"], "round: unknown key 'round'; did you mean 'rounds'?"),
        (["method=edgfd"], "method: no method called 'edgfd'; did you mean 'edgefd'?"),
        (
            ["method.filter.quantle=0.5"],
            "method.filter.quantle: unknown key 'quantle'; did you mean 'quantile'?",
        ),
        (
            ["method.filter={name: kmeans, quantle: 0.5}"],
            "method.filter.quantle: unknown key 'quantle'; did you mean 'quantile'?",
        ),
        (["method.filter.quantile=2"], "method.filter.quantile: 2 is refused: "),
        (["rounds=-1"], "rounds: -1 is refused: "),
        (["rounds=lots"], "rounds: 'lots' is refused: "),
        (["training.optimizer=adm"], "training.optimizer: 'adm' is refused: "),
        (["rounds=1,2"], "rounds=1,2: one run takes one value"),
        (["method=edgefd,fedmd"], "method=edgefd,fedmd: one run takes one value"),
        (["scenario=iid,dirichlet"], "scenario=iid,dirichlet: one run takes one value"),
        (["rounds"], "'rounds' is not of the form key=value"),
        (
            ["training={epochs: 3}"],
            "training.epochs: unknown key 'epochs'; did you mean 'local_epochs'?",
        ),
        (["models={mlp: 3}"], "models: {'mlp': 3} assigns 3 clients"),
        (["seeds.trainin=3"], "seeds.trainin: unknown key 'trainin'; did you mean 'training'?"),
        (["runtime.device=gpu"], "runtime.device: 'gpu' is refused: "),
        (["name.first=x"], "name.first: unknown key 'first'"),
        (["proxy=none"], "proxy: no proxy source called 'none'"),
        (["partition.alpha=1"], "partition.alpha: unknown key 'alpha'"),
    ],
)
def test_a_mistake_is_one_line_that_names_path_and_value(words, line):
    with pytest.raises(ConfigError) as error:
        compose(words)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("clients: 4\nmodels: {mlp: 4}\npartition: {name: dirichlet, alpha: 2}\n")
    scenario = compose([f"scenario={path}", "rounds=2"])
    assert scenario == Scenario(
        name="mine", clients=4, models={"mlp": 4}, partition=Dirichlet(alpha=2.0), rounds=2
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("clients: [", "is not readable"),
        ("- 1\n- 2\n", "is not a mapping"),
        ("clinets: 4\n", "clinets: unknown key 'clinets'; did you mean 'clients'?"),
        ("partition: {name: dirichlet, alfa: 2}\n", "partition.alfa: unknown key 'alfa'"),
        ("_target_: os.system\n", "unknown key '_target_'"),
        ("description: ${oc.env:HOME}\nrounds: ${oops}\n", "oops"),
    ],
)
def test_a_damaged_file_is_one_line_too(tmp_path, text, line):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        compose([f"scenario={path}"])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_preset_gives_a_named_component_the_scenarios_fields():
    swing = compose(["scenario=lm_canary", "protector=swing"]).protector
    assert isinstance(swing, Swing)
    assert swing.scorer == Detector(symbols="0123456789#", sharpness=2)
    changed = compose(["scenario=lm_canary", "protector=swing", "protector.noise_scale=0.1"])
    assert changed.protector == replace(swing, noise_scale=0.1)
    assert isinstance(compose(["scenario=lm_canary"]).protector, NoProtection)
    assert compose(["scenario=lm_canary", "protector={name: swing}"]).protector == Swing()
    assert compose(["scenario=iid", "protector=swing"]).protector == Swing()


@pytest.mark.parametrize(
    ("presets", "reason"),
    [
        ("{protectr: {swing: {}}}", "protectr: unknown key 'protectr'; did you mean 'protector'"),
        ("{protector: {swin: {}}}", "presets.protector: no protector called 'swin'"),
        ("{protector: swing}", "presets.protector: it names no components"),
        ("{rounds: {swing: {}}}", "presets.rounds: it names no components"),
    ],
)
def test_a_preset_for_nothing_is_refused(tmp_path, presets, reason):
    path = tmp_path / "mine.yaml"
    path.write_text(f"rounds: 2\npresets: {presets}\n")
    with pytest.raises(ConfigError, match=reason):
        compose([f"scenario={path}"])


def test_a_group_that_is_null_by_default_starts_from_its_own_defaults():
    planted = compose(["canaries={insertions: [1, 4]}", "canaries.holders=2"]).canaries
    assert planted is not None
    assert (planted.insertions, planted.holders, planted.per_level) == ((1, 4), 2, 10)
    natural = compose(["scenario=swing_audit", "canaries.family.look=natural"]).canaries
    assert natural is not None
    assert describe(natural.family) == {"name": "secret_label", "look": "natural"}


@pytest.mark.parametrize("key", ["canaries.holders=2", "canaries.family.look=natural"])
def test_a_part_of_null_is_refused(key):
    with pytest.raises(ConfigError, match=r"canaries.*belongs to is null; give that as a map"):
        compose([key])
