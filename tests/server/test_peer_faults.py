"""Inputs that a widely used server averages without a word: here each is dropped and named.

The other half of the table, a worker process that dies, is in ``tests/e2e/test_grids.py``; both
sides are measured by ``bench/peer_faults.py`` (docs/results/peer_faults.md).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fedkd_server.cohort import cohort
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from bench import peer_faults
from fedkd.compose import compose
from fedkd.results import result_hash
from fedkd.transport.codes import RecordError
from fedkd.transport.records import read_reply
from fedkd.types import SCHEMA, Update

ROOT = Path(__file__).parents[2]
MEAN = [2.0, 2.0, 2.0]
NAN = float("nan")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (peer_faults.part(NAN), "not finite"),
        (peer_faults.part(100.0, weight=1e9), "no number of examples"),
        (peer_faults.part(100.0, weight=-5.0), "no number of examples"),
        (peer_faults.part(100.0, weight=NAN), "no number of examples"),
        (peer_faults.part(6.0, size=1), "another shape"),
        (Update(arrays={"w": torch.full((1, 3), 6.0)}), "another shape"),
    ],
    ids=["NaN", "1e9 examples", "-5 examples", "NaN examples", "(1,)", "(1, 3)"],
)
def test_a_bad_update_leaves_the_average_as_it_was(bad, reason):
    mean, reasons = peer_faults.averaged([*peer_faults.GOOD, bad], sent=peer_faults.SENT)
    assert mean == MEAN
    (told,) = reasons
    assert told.startswith("client 3: dropped: ")
    assert reason in told


def test_an_honest_fourth_client_does_move_the_average():
    mean, reasons = peer_faults.averaged(
        [*peer_faults.GOOD, peer_faults.part(6.0)], sent=peer_faults.SENT
    )
    assert (mean, reasons) == ([3.0, 3.0, 3.0], [])


def test_index_arrays_are_no_parameters():
    """Sparse replies {index, values} are averaged elsewhere, the indices too."""
    indices = {"index": torch.tensor([0, 2]), "values": torch.tensor([1.0, 3.0])}
    mean, reasons = peer_faults.averaged(
        [*peer_faults.GOOD, Update(arrays=indices, weight=10.0)], sent=peer_faults.SENT
    )
    assert mean == MEAN
    assert reasons == ["client 3: dropped: other parameters than were sent"]


def test_index_arrays_are_no_knowledge_either():
    arrays = {"index": Array(np.array([0, 2])), "values": Array(np.ones(2, np.float32))}
    header = {"schema": SCHEMA, "client": 0, "n_rows": 3, "space": "probs", "temperature": 3.0}
    masks = ArrayRecord({"rows": Array(np.array([0b10100000], np.uint8))})
    records = {"control": ConfigRecord(header), "masks": masks, "knowledge": ArrayRecord(arrays)}
    with pytest.raises(RecordError, match="'scores' is missing"):
        read_reply(RecordDict(records))


SAMPLED = ("data=digits", "models=mlp", "clients=10", "cohort=5", "rounds=2", "partition=iid")


def test_the_same_seed_draws_the_same_clients_and_gives_the_same_result():
    scenario = compose(SAMPLED)
    here = [cohort(scenario, range(10), round=n) for n in (1, 2)]
    code = "from bench.peer_faults import sampled; print(sampled())"
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(there.stdout.splitlines()[-1]) == here == peer_faults.sampled()
    others = compose([*SAMPLED, "seed=1"])
    first, second, other = (peer_faults.run(one, workers=1) for one in (scenario, scenario, others))
    assert [result.cohort for result in first[1:]] == here
    assert result_hash(first) == result_hash(second) != result_hash(other)


def test_a_killed_worker_costs_one_round_and_no_more():
    lost = [round["failed"] for round in peer_faults.dead_worker()]
    assert lost == [0, 5, 0, 0, 0]


IDLE = """
import json, sys
from bench import peer_faults
from fedkd.compose import compose
words = ["data=digits", "models=mlp", "clients=2", "rounds=2", "method=fedavg"]
rounds = peer_faults.run(compose(words), workers=1)
print(json.dumps([len(r.cohort) for r in rounds[1:]]), "ray" in sys.modules)
"""


def test_a_small_simulation_starts_no_cluster():
    """Elsewhere 2 clients x 2 rounds of nothing take 21 s, in which Ray's actors start."""
    done = subprocess.run(
        [sys.executable, "-c", IDLE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[2, 2] False"
