"""Clients that live in files do exactly what clients that live in memory do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from fedkd_clients.fleet import Fleet
from fedkd_clients.learner import FleetLearner
from fedkd_clients.state import ClientState
from fedkd_clients.store import FileStore, MemoryStore
from safetensors.torch import save_file

from fedkd.transport.messages import Action
from fedkd.types import Knowledge, ProxySet, ProxySource, Update

CPU = torch.device("cpu")


class Noting:
    """A fleet that notes what its clients upload."""

    def __init__(self, make_fleet) -> None:
        self.make_fleet, self.uploads = make_fleet, []

    def handle(self, requests):
        replies = self.make_fleet().handle(requests)
        if requests[0].action is Action.ROUND:
            self.uploads += [(r.client, r.upload) for r in replies]
        return replies


def _tensors(upload) -> list[torch.Tensor]:
    if isinstance(upload, Knowledge):
        return [upload.rows, upload.scores, upload.weights]
    assert isinstance(upload, Update)
    return list(upload.arrays.values())


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=edgefd", "training.optimizer=adam"],
        ["method=edgefd", "training.optimizer=sgd", "training.learning_rate=0.05"],
        ["method=edgefd_soft", "proxy=external", "proxy.size=80"],
        ["method=edgefd", "models=cnn_small", "data.limit=300"],
        ["method=fedavg", "training.optimizer=adam"],
        ["method=edgefd", "cohort=2", "rounds=3"],
    ],
)
def test_two_rounds_over_files_and_memory_upload_the_same_bits(play, tiny, tmp_path, overrides):
    scenario = tiny(*overrides)
    lasting = Fleet(scenario, MemoryStore(), device=CPU, simulated=True)
    in_memory = Noting(lambda: lasting)
    # A new fleet for every message, as in processes that come and go.
    on_disk = Noting(lambda: Fleet(scenario, FileStore(tmp_path), device=CPU, simulated=True))
    first = play(scenario, fleet_for=lambda _: in_memory)
    second = play(scenario, fleet_for=lambda _: on_disk)
    assert [r.digest for r in first] == [r.digest for r in second]
    assert [r.failures for r in second] == [[] for _ in second]
    assert [c for c, _ in in_memory.uploads] == [c for c, _ in on_disk.uploads]
    for (_, left), (_, right) in zip(in_memory.uploads, on_disk.uploads, strict=True):
        assert all(map(torch.equal, _tensors(left), _tensors(right)))
    values = [
        [(m.client, m.name, m.value) for m in r.measurements if "seconds" not in m.name]
        for r in first
    ]
    assert any(name == "accuracy" for _, name, _ in values[-1])
    assert values == [
        [(m.client, m.name, m.value) for m in r.measurements if "seconds" not in m.name]
        for r in second
    ]


def _fresh(scenario) -> ClientState:
    return FleetLearner(scenario, MemoryStore(), device=CPU).state(0)


def _trained(scenario) -> ClientState:
    learner = FleetLearner(scenario, MemoryStore(), device=CPU)
    learner.streams.round = 1
    learner.fit([0], None, None)
    state = learner.state(0)
    state.proxy = ProxySet(
        inputs=torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2),
        ids=torch.arange(6),
        owner=torch.tensor([0, -1, 0, -1, -1, -1]),
        source=ProxySource.POOLED,
        version=4,
    )
    state.weights = torch.linspace(0, 1, 6)
    return state


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_state_comes_back_from_its_file(tiny, tmp_path, optimizer):
    scenario = tiny(f"training.optimizer={optimizer}")
    kept = _trained(scenario)
    FileStore(tmp_path).put(0, kept)
    back = _fresh(scenario)
    FileStore(tmp_path).get(0, back)
    assert torch.equal(back.row, kept.row)
    assert not torch.equal(_fresh(scenario).row, kept.row)
    assert kept.row[-1] > 0, "an optimiser that has stepped has a state"
    assert torch.equal(back.weights, kept.weights)
    for name in ("inputs", "ids", "owner"):
        assert torch.equal(getattr(back.proxy, name), getattr(kept.proxy, name))
    assert (back.proxy.source, back.proxy.version) == (ProxySource.POOLED, 4)


def test_a_client_never_stored_is_fresh(tiny, tmp_path):
    scenario, store = tiny(), FileStore(tmp_path)
    assert not store.holds(1)
    learner = FleetLearner(scenario, store, device=CPU)
    assert torch.equal(learner.state(0).row, _fresh(scenario).row)
    learner.keep(0)
    assert store.holds(0)


def test_a_file_of_another_model_is_refused(tiny, tmp_path):
    store = FileStore(tmp_path)
    store.put(0, _trained(tiny()))
    other = _fresh(tiny("training.optimizer=sgd"))
    with pytest.raises(ValueError, match="the scenario has changed, use another folder"):
        store.get(0, other)


def test_clients_do_not_mix(tiny, tmp_path):
    scenario = tiny()
    store, kept = FileStore(tmp_path), _trained(scenario)
    store.put(0, kept)
    assert store.holds(0)
    assert not store.holds(1)


def test_a_new_proxy_version_replaces_the_old_one(tiny, tmp_path):
    scenario = tiny()
    store, state = FileStore(tmp_path), _trained(scenario)
    store.put(0, state)
    state.proxy = replace(state.proxy, inputs=state.proxy.inputs + 100, version=5)
    store.put(0, state)
    back = _fresh(scenario)
    FileStore(tmp_path).get(0, back)
    assert back.proxy.version == 5
    assert torch.equal(back.proxy.inputs, state.proxy.inputs)


def test_a_file_of_another_schema_is_refused(tiny, tmp_path):
    scenario = tiny()
    store = FileStore(tmp_path)
    store.put(0, _trained(scenario))
    (path,) = tmp_path.glob("client-0.safetensors")
    facts = json.dumps({"schema": 2, "proxy_version": None})
    save_file({"x": torch.ones(1)}, path, metadata={"fedkd": facts})
    with pytest.raises(ValueError, match="schema 2; this fedkd reads 1"):
        FileStore(tmp_path).get(0, _fresh(scenario))


def test_private_state_is_for_its_owner_only(tmp_path):
    FileStore(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
