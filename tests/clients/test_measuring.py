"""Only a simulation's clients say how good their models are; anybody else's refuse."""

from __future__ import annotations

import logging

import pytest
import torch
from fedkd_clients.app import fleet_in_memory, fleet_on_disk, in_flower_simulation
from fedkd_clients.fleet import Fleet
from fedkd_clients.learner import FleetLearner
from fedkd_clients.store import MemoryStore

from fedkd.data.federation import load
from fedkd.errors import RunStopped
from fedkd.models.base import initialized, models
from fedkd.transport.messages import Action, Request

MEASURE = Request(action=Action.MEASURE, client=0, round=1)


def test_a_client_measures_for_nobody_unless_it_is_told_that_it_is_simulated(tiny):
    deployed = Fleet(tiny(), MemoryStore(), device=torch.device("cpu"))
    (refusal,) = deployed.handle([MEASURE])
    assert (refusal.error, refusal.metrics) == ("PermissionError", {})
    (reply,) = fleet_in_memory(tiny()).handle([MEASURE])
    assert reply.metrics.keys() >= {"accuracy", "accuracy_local"}


def test_clients_that_live_in_files_are_not_asked_and_the_run_goes_on(
    play, tiny, tmp_path, monkeypatch, caplog
):
    # This process is no Ray actor of Flower's simulation; a SuperNode's is none either.
    assert not in_flower_simulation()
    monkeypatch.setenv("FEDKD_STATE_DIR", str(tmp_path))
    scenario = tiny()
    with caplog.at_level(logging.ERROR, logger="fedkd.client"):
        deployed, simulated = play(scenario, fleet_for=fleet_on_disk), play(scenario)
    assert [r.digest for r in deployed] == [r.digest for r in simulated]
    assert [r.failures for r in deployed] == [[], [], []]
    names = {m.name for r in deployed for m in r.measurements}
    assert "teacher_accuracy" in names, "what the server knows by itself is still measured"
    assert not {name for name in names if name.startswith(("accuracy", "bits_per_character"))}
    assert [r for r in caplog.records if r.exc_info] == [], "they said so in the handshake"


def test_a_client_on_a_device_takes_no_part_in_an_attack(play, tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FEDKD_STATE_DIR", str(tmp_path))
    attacked = tiny("method=fedmd", "attack=loss_maximisation")
    with (
        caplog.at_level(logging.ERROR, logger="fedkd.client"),
        pytest.raises(RunStopped, match="ConfigError"),
    ):
        play(attacked, fleet_for=fleet_on_disk)
    (told, *_) = [r.exc_info[1] for r in caplog.records if r.exc_info]
    assert "'loss_maximisation' makes clients of a simulation lie" in str(told)
    assert "attack=null" in str(told)
    assert list(tmp_path.rglob("*.safetensors")) == []
    assert play(attacked), "a simulation still does"


def _closing(scenario, clients) -> list[Request]:
    model = models.get(scenario.client_models()[0])()
    rng = torch.Generator().manual_seed(5)
    arrays = load(scenario.data)
    module = initialized(model, arrays.input_shape, arrays.n_classes, rng=rng)
    sent = scenario.method.opening(module)
    return [
        Request(action=Action.MEASURE, client=c, round=1, incoming=sent, closing=True)
        for c in clients
    ]


def test_the_last_measurement_is_the_same_for_clients_together_and_apart(tiny):
    scenario = tiny("method=fedavg", "models=mlp", "clients=3")
    together = fleet_in_memory(scenario).handle(_closing(scenario, range(3)))
    for request, reply in zip(_closing(scenario, range(3)), together, strict=True):
        (alone,) = fleet_in_memory(scenario).handle([request])
        assert alone.metrics == reply.metrics
        assert {"accuracy", "accuracy_local", "accuracy_distilled"} <= alone.metrics.keys()


def test_copies_that_are_alike_are_measured_once(tiny, monkeypatch):
    scenario, measured = tiny("method=fedavg", "models=mlp", "clients=3"), []
    figures = FleetLearner.figures

    def counted(learner, client, examples):
        measured.append(client)
        return figures(learner, client, examples)

    monkeypatch.setattr(FleetLearner, "figures", counted)
    replies = fleet_in_memory(scenario).handle(_closing(scenario, range(3)))
    assert sorted(measured) == [0, 0, 0, 1, 1, 2, 2]
    assert len({reply.metrics["accuracy_distilled"] for reply in replies}) == 1
    assert len({reply.metrics["accuracy"] for reply in replies}) > 1


def test_a_client_that_cannot_be_closed_fails_alone(tiny, monkeypatch):
    scenario = tiny("method=fedavg", "models=mlp", "clients=3")
    fleet = fleet_in_memory(scenario)
    fleet._learner.state(1).row.resize_(0)
    replies = fleet.handle(_closing(scenario, range(3)))
    assert [bool(reply.error) for reply in replies] == [False, True, False]
