"""Timing chooses only what can be run, the same whatever the clock says, and once."""

from __future__ import annotations

import pytest
import torch
from fedkd_clients.architectures import Architectures
from fedkd_clients.calibrated import calibrated

from fedkd.errors import ConfigError
from fedkd.models.base import models
from fedkd.runtime import Runtime
from fedkd.scenario import from_json, scenario_hash, to_json
from fedkd.training.executors import calibration
from fedkd.training.executors.calibration import fastest
from fedkd.training.executors.choice import EXECUTORS, Chosen

IMAGES = [name for name in models.names() if not models.get(name).tokens]
TEXTS = [name for name in models.names() if models.get(name).tokens]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(calibration, "TRAINING_S", 0.05)
    monkeypatch.setattr(calibration, "PREDICTION_S", 0.02)


def _of(model: str) -> tuple[str, ...]:
    text = ("data=gutenberg_mini", "data.limit=200", "method.filter=keep_all", "proxy.fraction=0.1")
    return (f"models={model}", "method=fedmd", *(text if models.get(model).tokens else ()))


@pytest.mark.parametrize("model", [*IMAGES, *TEXTS])
def test_what_is_chosen_was_timed_and_can_train_the_model(tiny, model):
    scenario = tiny(*_of(model), "clients=40", "partition=iid", "runtime.calibrate=true")
    settled, (record,) = calibrated(scenario, alone=True)
    (chosen,) = settled.runtime.choices
    module = Architectures(scenario, device=torch.device("cpu")).fresh(0)
    fitting = {name for name, one in EXECUTORS.items() if one.fits(module)}
    timed = {way["executor"] for way in record["training"]}
    assert {"serial", "lean"} & fitting <= timed <= fitting
    assert timed == fitting or model != "mlp", "stacking a heavy model may take all the time"
    assert (chosen.executor.value, chosen.block) in {
        (way["executor"], way["block"]) for way in record["training"]
    }
    assert chosen.block <= 3, "no more than three of forty clients are ever asked together"
    assert chosen.prediction_batch in {way["batch"] for way in record["prediction"]}
    assert chosen.model == model
    assert scenario_hash(settled) == scenario_hash(scenario)


def test_a_choice_survives_the_way_through_json_and_is_not_timed_again(tiny, monkeypatch):
    scenario = tiny("models={mlp: 1, cnn_small: 2}", "runtime.calibrate=true")
    settled, records = calibrated(scenario, alone=True)
    assert [r["chosen"]["model"] for r in records] == ["cnn_small", "mlp"]
    monkeypatch.setattr(calibration, "seconds", _never)
    again, nothing = calibrated(from_json(to_json(settled)), alone=True)
    assert again == settled
    assert nothing == []


def _never(*_: object) -> float:
    raise AssertionError("the clock was asked")


def test_without_being_asked_for_nothing_is_timed_and_nothing_recorded(tiny, monkeypatch):
    monkeypatch.setattr(calibration, "seconds", _never)
    scenario = tiny()
    assert calibrated(scenario, alone=True) == (scenario, [])


def test_with_dp_sgd_only_prediction_is_timed(tiny):
    scenario = tiny(
        *("method=fedmd", "proxy=external", "privacy.dp_sgd=true", "runtime.calibrate=true"),
        *("privacy.noise_multiplier=1.0", "privacy.delta=1e-3"),
    )
    settled, (record,) = calibrated(scenario, alone=True)
    assert record["training"] == []
    assert len(record["prediction"]) > 1
    assert len(settled.runtime.choices) == 1


def test_the_fastest_wins_unless_the_usual_is_nearly_as_fast():
    assert fastest({"a": 10.0, "b": 9.0, "c": 12.0}, usual="a") == "b"
    assert fastest({"a": 10.0, "b": 9.8}, usual="a") == "a"
    assert fastest({"b": 9.8}, usual="a") == "b"


def test_ways_that_cannot_pay_are_left_out_or_given_up():
    gone: list[str] = []

    def run(way: str, effort: int) -> float:
        gone.append(way)
        return {"quick": 1e-3, "slow": 3e-3, "huge": 1e-3}[way]

    least = calibration._timed(run, {"quick": 1, "slow": 1, "huge": 10**6}, budget=0.01)
    assert least == {"quick": 1e-3, "slow": 3e-3}
    assert gone.count("slow") == 2, "once to warm up, once to be timed"
    assert gone.count("quick") > 2


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ("[{model: mlp, executor: quick}]", r"runtime\.choices\[0\]\.executor: 'quick' is refused"),
        ("[{model: mlp, executor: auto}]", "'mlp' is given no executor by 'auto'"),
        ("[{model: mlp, block: 0}]", r"runtime\.choices\[0\]\.block: 0 is refused"),
        ("[{model: mlp, blocks: 3}]", "unknown key 'blocks'; did you mean 'block'"),
        ("[{executor: lean}]", "a choice names its model"),
        ("[{model: mlp}, {model: mlp}]", "names a model twice"),
        ("3", r"runtime\.choices: 3 is not a list"),
    ],
)
def test_a_table_that_says_nothing_sound_is_refused(tiny, choices, told):
    with pytest.raises(ConfigError, match=told):
        tiny(f"runtime.choices={choices}")


@pytest.mark.parametrize(
    ("model", "choice", "told"),
    [
        ("mlp", "{model: mpl}", "no client has the model 'mpl'; did you mean 'mlp'"),
        ("gru_char", "{model: gru_char, executor: stacked}", "cannot train 'gru_char'"),
    ],
)
def test_a_table_that_fits_no_client_is_refused_before_anything_runs(tiny, model, choice, told):
    scenario = tiny(*_of(model), f"runtime.choices=[{choice}]")
    with pytest.raises(ConfigError, match=told):
        calibrated(scenario, alone=True)


def test_a_pinned_executor_leaves_nothing_to_calibrate(tiny):
    with pytest.raises(ConfigError, match=r"runtime: executor: 'lean' is pinned"):
        tiny("runtime.calibrate=true", "runtime.executor=lean")
    with pytest.raises(ConfigError, match=r"runtime: executor: 'lean' is pinned"):
        tiny("runtime.choices=[{model: mlp}]", "runtime.executor=lean")


def test_another_machine_s_gpu_cannot_be_timed_here(tiny):
    with pytest.raises(ConfigError, match=r"calibrate: true times this machine"):
        tiny("runtime.calibrate=true", "runtime.backend=ray", "runtime.device=auto")
    tiny("runtime.calibrate=true", "runtime.backend=ray")


def test_clients_that_nobody_timed_refuse_rather_than_guess(tiny):
    models_of = Architectures(tiny("runtime.calibrate=true"), device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="nobody timed mlp"):
        models_of.choice(0)
    with pytest.raises(ConfigError, match="nobody timed b"):
        Runtime(calibrate=True, choices=(Chosen(model="a"),)).check_timed(["a", "b", "b"])
