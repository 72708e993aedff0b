"""Only a simulation's clients say how good their models are; anybody else's refuse."""

from __future__ import annotations

import logging

import pytest
import torch
from fedkd_clients.app import fleet_in_memory, fleet_on_disk, in_flower_simulation
from fedkd_clients.fleet import Fleet
from fedkd_clients.store import MemoryStore

from fedkd.errors import RunStopped
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
