"""Suspects differ in nothing but membership: not in client, not by being there twice."""

from __future__ import annotations

import numpy as np
import torch

from fedkd.audit.attacks.base import Truth
from fedkd.audit.bench import bench_of, truth_of
from fedkd.audit.fair import suspects_by_client, suspects_of_all
from fedkd.audit.roc import auc
from fedkd.data.federation import Planted, layout_rows, planted
from fedkd.training.steps import Examples

NO_ARRAYS: Planted = None  # pyright: ignore[reportAssignmentType]


def _noise(n: int, rng: np.random.Generator) -> Examples:
    """Return scores that say nothing, in place of inputs."""
    return Examples(
        inputs=torch.from_numpy(rng.normal(size=(n, 1))),
        labels=torch.from_numpy(rng.integers(10, size=n)),
    )


def _truth(members: dict[int, Examples], nonmembers: Examples) -> Truth:
    return Truth(
        members=members,
        nonmembers=nonmembers,
        planted=NO_ARRAYS,
        label_counts=np.zeros((len(members), 10)),
    )


def test_clients_that_score_higher_are_no_membership():
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(40):
        members = {client: _noise(n, rng) for client, n in enumerate((2000, 300, 200))}
        sides = suspects_by_client(_truth(members, _noise(900, rng)), members, rng=rng)
        ours, others = (
            np.concatenate([pair[at].inputs[:, 0] + (c == 0) for c, pair in sides.items()])
            for at in (0, 1)
        )
        found = auc(ours, others)
        alarms += found.interval.low > 0.5  # 2.5 % of them if nothing leaks
    assert alarms <= 4


def test_an_example_that_two_clients_hold_is_one_member():
    rng = np.random.default_rng(0)
    part = _noise(50, rng)
    members, _ = suspects_of_all(_truth({0: part, 1: part}, _noise(20, rng)), rng=rng)
    values = members.inputs[:, 0].tolist()
    assert len(set(values)) == len(values)


def test_natural_canaries_are_neither_public_nor_non_members(tiny):
    natural = (
        "canaries={family: {name: secret_label, look: natural}, insertions: [2], per_level: 40}"
    )
    scenario = tiny(natural)
    arrays = planted(scenario.layout()).arrays
    trained = {row.tobytes() for row in arrays.train_inputs[-80:]}
    sides = truth_of(scenario).nonmembers, bench_of(scenario).public
    assert len(trained) > 20
    assert sum(map(len, sides)) == len(arrays.test_labels) - len(trained)
    for side in sides:
        assert not trained & {row.tobytes() for row in side.inputs.numpy()}


def test_a_row_that_another_client_gave_to_the_proxy_set_is_no_member(tiny):
    scenario = tiny("partition=resample", "proxy=pooled")
    layout = scenario.layout()
    inputs, clients = planted(layout).arrays.train_inputs, layout_rows(layout)[1]
    given = {inputs[at].tobytes() for rows in clients for at in rows.train[rows.contributed]}
    assert given
    for members in truth_of(scenario).members.values():
        assert not given & {row.tobytes() for row in members.inputs.numpy()}
