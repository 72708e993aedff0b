"""A checkpoint's client files are those that the one reader of such files reads."""

from __future__ import annotations

import torch
from fedkd_clients import snapshots
from fedkd_clients.learner import FleetLearner
from fedkd_clients.store import MemoryStore, parts_of

from fedkd.transport.stored import from_bytes, to_bytes

CPU = torch.device("cpu")


def test_a_file_is_what_the_records_are_as_bytes(tiny, tmp_path):
    learner = FleetLearner(tiny(), MemoryStore(), device=CPU)
    learner.share_rows()
    for client in (0, 1):
        learner.state(client)
    path = tmp_path / "clients-00.safetensors"
    snapshots.save(learner, path, [0, 1])
    parts = {
        f"{client}.{name}": part
        for client in (0, 1)
        for name, part in parts_of(learner.state(client)).items()
    }
    assert path.read_bytes() == to_bytes(parts)
    found = from_bytes(path.read_bytes())
    assert found.keys() == parts.keys()
    assert torch.equal(found["1.state"].tensors["row"], learner.state(1).row)


def test_clients_without_a_state_make_a_file_with_nothing_in_it(tiny, tmp_path):
    learner = FleetLearner(tiny(), MemoryStore(), device=CPU)
    path = tmp_path / "clients-00.safetensors"
    snapshots.save(learner, path, [0, 1])
    assert from_bytes(path.read_bytes()) == {}
    snapshots.restore(learner, path, None)
    assert learner.known([0, 1]) == []
