"""Devices: figures worked out by hand, availability as it says, a clock that reads real work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fedkd_server.virtual_time import virtual_time

from fedkd.devices.base import Availability, device_of, devices
from fedkd.devices.clock import spent
from fedkd.devices.work import examples_read, forward_flops
from fedkd.errors import ConfigError
from fedkd.faults.absence import DeviceOff, turn_up
from fedkd.reports.comparison.target import reached, target_of
from fedkd.results import SERVER, Loss
from fedkd.scenario import from_json, to_json
from fedkd.tasks import Classification
from fedkd.training.jobs import Job
from fedkd.training.steps import Examples, Lesson
from fedkd.transport.batch import Harvest
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.sizes import message_size
from fedkd.types import Knowledge, Space


@pytest.mark.parametrize(
    ("model", "shape", "classes", "by_hand"),
    [
        ("mlp", (8, 8), 10, 2 * (64 * 128 + 128 * 10)),
        (
            "cnn_small",
            (1, 28, 28),
            10,
            2 * (14 * 14 * 16 * 25 + 7 * 7 * 32 * 16 * 9 + 32 * 7 * 7 * 64 + 64 * 10),
        ),
        ("gru_char", (48,), 90, 48 * 2 * (48 * 384 + 128 * 384 + 128 * 90)),
    ],
)
def test_operations_are_those_of_the_layers(model, shape, classes, by_hand):
    assert forward_flops(model, shape, classes) == by_hand


@pytest.mark.parametrize(("n_private", "n_taught"), [(130, 0), (130, 500), (500, 70), (0, 90)])
@pytest.mark.parametrize("order", ["interleaved", "sequential"])
def test_inputs_read_are_those_of_the_real_schedule(tiny, n_private, n_taught, order):
    scenario = tiny(f"training.order={order}", "training.local_epochs=2", "training.batch_size=32")
    lesson = Lesson(
        inputs=torch.zeros(n_taught, 1),
        scores=torch.zeros(n_taught, 2),
        distiller=scenario.method.distiller,
    )
    job = Job(
        private=Examples(inputs=torch.zeros(n_private, 1), labels=torch.zeros(n_private)),
        lesson=lesson,
        recipe=scenario.training,
        task=Classification(n_classes=2),
        order=torch.Generator(),
    )
    read = sum(len(part) for step in job.schedule() for part in step if part is not None)
    assert examples_read(scenario, n_private, n_taught) == read


def test_a_round_s_time_and_energy_are_down_work_and_up(tiny):
    scenario = tiny("method=fedmd", "proxy=external", "devices=[raspberry_pi_4]")
    upload = Knowledge(
        rows=torch.arange(100),
        scores=torch.full((100, 10), 0.1),
        weights=torch.ones(100),
        space=Space.PROBS,
    )
    request = Request(action=Action.ROUND, client=0, round=1)
    reply = Reply(client=0, upload=upload)
    took = spent(scenario, request, reply)
    from fedkd.data.federation import client_rows

    n = len(client_rows(scenario.layout(), 0).train)
    work = 2 * (64 * 128 + 128 * 10) * (3 * n + 100)
    down, up = (sum(message_size(m).values()) for m in (request, reply))
    sending = 8 * down / 46.12e6 + 8 * up / 22.44e6
    assert took.seconds == pytest.approx(work / 8e9 + sending)
    assert took.joules == pytest.approx(6.4 * work / 8e9 + 3.5 * sending)
    assert spent(scenario, request, Reply(client=0, error="MemoryError")) is None
    assert spent(tiny("method=fedmd"), request, reply) is None


def test_neighbors_share_a_kind_and_kinds_their_shares():
    kinds = [devices.get("phone")(share=3), devices.get("pc")()]
    found = [device_of(kinds, client, n_clients=8) for client in range(8)]
    assert found == [kinds[0]] * 6 + [kinds[1]] * 2
    assert device_of(kinds, 0, n_clients=1) is kinds[0]


def test_chance_keeps_its_share_and_its_stretches():
    often = Availability(on_share=0.7, on_rounds=5)
    on = np.array([[often.is_on(0, client=c, round=r) for r in range(1, 201)] for c in range(60)])
    assert on.mean() == pytest.approx(0.7, abs=0.04)
    left = (on[:, :-1] & ~on[:, 1:]).sum() / on[:, :-1].sum()
    assert 1 / left == pytest.approx(5, rel=0.1)
    assert on[:, 0].mean() == pytest.approx(0.7, abs=0.2)
    assert {tuple(row) for row in on[:5]} != {tuple(on[0])}


def test_a_list_is_followed_and_begins_again():
    given = Availability(trace=(True, False, False))
    assert [given.is_on(0, client=0, round=n) for n in range(1, 6)] == [
        True, False, False, True, False,
    ]  # fmt: skip
    assert Availability().is_on(3, client=9, round=1000)


def test_a_device_that_is_off_does_no_round(tiny):
    scenario = tiny("devices=[{name: pc, availability: {trace: [true, false]}}]")
    turn_up(scenario, client=0, round=1)
    with pytest.raises(DeviceOff):
        turn_up(scenario, client=0, round=2)


def _figures(scenario, **harvest) -> dict[tuple[int, str], float]:
    measured = virtual_time(scenario, Harvest(**harvest), round=1)
    return {(m.client, m.name): m.value for m in measured}


def test_the_server_waits_for_the_slowest_or_until_the_deadline(tiny):
    timed = "faults={delay_s: [0, 9]}"
    assert _figures(tiny(), waited=4.0) == {}
    assert _figures(tiny(timed), waited=4.0) == {(SERVER, "virtual_seconds"): 4.0}
    by_then = tiny(timed, "deadline_s=3")
    assert _figures(by_then, waited=1.5) == {(SERVER, "virtual_seconds"): 1.5}
    assert _figures(by_then, waited=4.0) == {(SERVER, "virtual_seconds"): 3}
    silent = [(1, Loss.NO_ANSWER.value)]
    lost = _figures(by_then, waited=1.5, failures=silent)
    assert lost == {(SERVER, "virtual_seconds"): 3}
    told = _figures(by_then, waited=1.5, failures=[(1, "dropped: numbers")])
    assert told == {(SERVER, "virtual_seconds"): 1.5}


def test_who_is_done_waits_idle(tiny):
    scenario = tiny("devices=[raspberry_pi_4]")
    found = _figures(scenario, waited=4.0, spent={0: (1.0, 5.0), 1: (4.0, 20.0)})
    assert found[0, "device_energy_j"] == 5.0 + 2.7 * 3.0
    assert found[1, "device_energy_j"] == 20.0
    assert found[SERVER, "energy_j"] == 25.0 + 2.7 * 3.0
    assert found[SERVER, "virtual_seconds"] == 4.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["devices=[toaster]"], r"devices\[0\]: no device called 'toaster'"),
        (["devices=pc"], "devices: 'pc' is not a list"),
        (["devices=[{name: pc, flops: 0}]"], r"devices\[0\].flops: 0"),
        (
            ["devices=[{name: pc, availability: {on_share: 0.9, on_rounds: 2}}]"],
            r"devices\[0\].availability: on_rounds: 2.0 rounds .* on_share=0.9; give 9",
        ),
        (["devices=[pc]", "method=centralised"], "devices: 'centralised' trains in one place"),
        (["devices=[pc]", "server_view=sums", "proxy=external"], "masked sums are not timed"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(tiny, overrides, message):
    with pytest.raises(ConfigError, match=message):
        tiny(*overrides)


def test_devices_survive_the_way_through_json(tiny):
    scenario = tiny("devices=[pc,{name: phone, share: 2, availability: {trace: [true, false]}}]")
    assert from_json(to_json(scenario)) == scenario
    assert [type(kind).__name__ for kind in scenario.devices] == ["PC", "Phone"]


def test_time_and_energy_to_an_accuracy_are_up_to_its_round(simulated):
    run = simulated("method=fedmd", "rounds=4", "devices=[raspberry_pi_4]")
    table = run.metrics()
    means = table[table["name"] == "accuracy"].groupby("round")["value"].mean()
    target = float(means.loc[3])
    found = reached(run.path, target)
    assert found.rounds == min(n for n, mean in means.items() if mean >= target)
    for figure, name in ((found.seconds, "virtual_seconds"), (found.joules, "energy_j")):
        rows = table[(table["name"] == name) & (table["round"] <= found.rounds)]
        assert figure == pytest.approx(rows["value"].sum())
        assert figure < run.summary[name] or found.rounds == 4
    assert reached(run.path, 1.0) is None
    plain = reached(simulated("method=fedmd", "rounds=4").path, target)
    assert (plain.rounds, plain.seconds, plain.joules) == (found.rounds, None, None)


@pytest.mark.parametrize("text", ["70", "0", "-0.5", "much", "nan"])
def test_a_target_that_is_no_share_is_refused(text):
    with pytest.raises(ConfigError, match=f"--to-accuracy: '{text}'"):
        target_of(text)


def test_no_target_is_none():
    assert target_of("") is None
    assert target_of("0.7") == 0.7
