"""Membership attacks find an overfitted student's members, and nothing where nobody is one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fedkd.audit.attacks.base import attacks
from fedkd.audit.bench import bench_of, truth_of
from fedkd.audit.fair import suspects_by_client
from fedkd.audit.views import Adversary
from fedkd.training.steps import Examples
from fedkd.types import Update
from tests.fedkd.audit.attacks.audited import LEAKY, Audited

ON_STUDENT = ["lira", "loss_threshold_student", "rmia"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Holder:
    """Sees a student that was given to it."""

    held: Update
    adversary: Adversary = Adversary.STUDENT_HOLDER

    def student(self) -> Update:
        return self.held


@pytest.fixture(scope="module")
def overfitted(tiny):
    """Return a bench, a truth whose members have noisy labels, and a student that learnt them."""
    bench = bench_of(tiny("training.learning_rate=0.005"))
    truth, rng = truth_of(bench.scenario), np.random.default_rng(0)

    def noisy(examples, rows):
        labels = torch.from_numpy(rng.integers(10, size=len(rows)))
        labels = torch.where(torch.rand(len(rows), generator=gen) < 0.4, labels, examples[1][rows])
        return Examples(inputs=examples[0][rows], labels=labels)

    gen = torch.Generator().manual_seed(0)
    everything = truth.members[0]
    pool = everything.inputs, everything.labels
    order = torch.from_numpy(rng.permutation(len(everything)))
    members, others = noisy(pool, order[:200]), noisy(pool, order[200:400])
    student = bench.train(members, 60, 3)
    view = Holder(held=Update(arrays=dict(student.state_dict())))
    return bench, replace(truth, members={0: members}, nonmembers=others), view


@pytest.mark.parametrize("name", ON_STUDENT)
def test_members_of_an_overfitted_student_are_found(overfitted, name):
    bench, truth, view = overfitted
    found = attacks.get(name)().run(view, bench, truth, rng=np.random.default_rng(0)).membership
    assert found.auc.interval.low > 0.6
    assert found.bound.epsilon > 0


@pytest.mark.parametrize("name", ON_STUDENT)
def test_nothing_is_found_among_examples_that_nobody_trained_on(overfitted, name):
    bench, truth, view = overfitted
    part = truth.nonmembers
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(1))
    halves = [
        Examples(inputs=part.inputs[rows], labels=part.labels[rows])
        for rows in order.tensor_split(2)
    ]
    blind = replace(truth, members={0: halves[0]}, nonmembers=halves[1])
    found = attacks.get(name)().run(view, bench, blind, rng=np.random.default_rng(0)).membership
    assert found.auc.interval.low < 0.5 < found.auc.interval.high
    assert found.bound.epsilon == 0


def test_a_client_is_compared_with_its_own_classes_only(tiny):
    truth = truth_of(tiny("partition={name: pathological, classes_per_client: 2}"))
    pairs = suspects_by_client(truth, truth.members, rng=np.random.default_rng(0))
    used: list[bytes] = []
    for client, (members, others) in pairs.items():
        held = set(truth.members[client].labels.tolist())
        assert set(others.labels.tolist()) <= held
        shares = [
            np.bincount(side.labels.numpy(), minlength=10) / len(side) for side in (members, others)
        ]
        np.testing.assert_allclose(shares[0], shares[1], atol=1e-9)
        used += [row.numpy().tobytes() for row in others.inputs]
    assert len(used) == len(set(used)), "a non-member serves for one client only"


def test_proxy_rows_are_compared_within_a_class(simulated):
    strong = Audited.of(
        simulated(
            "method=fedmd",
            "partition={name: pathological, classes_per_client: 4}",
            "server_model=mlp",
            "transcript=last",
        ).path
    )
    attack = attacks.get("confidence_on_proxy")()
    view, rng = strong.view(attack.adversary), np.random.default_rng(0)
    found = attack.run(view, strong.bench, strong.truth, rng=rng)
    assert found.membership is not None
    # Unmatched, a client's own classes alone would give an AUC of nearly 1.
    assert found.membership.auc.value < 0.75


def test_too_few_suspects_give_a_note_and_no_figure(overfitted):
    bench, truth, view = overfitted
    few = replace(
        truth,
        nonmembers=Examples(inputs=truth.nonmembers.inputs[:0], labels=truth.nonmembers.labels[:0]),
    )
    attack = attacks.get("loss_threshold_student")()
    found = attack.run(view, bench, few, rng=np.random.default_rng(0))
    assert found.membership is None
    assert "too few" in found.note


def test_uploads_are_attacked_client_by_client(simulated):
    leaky = Audited.of(simulated(*LEAKY).path)
    attack = attacks.get("loss_threshold_uploads")(passes=3)
    view, rng = leaky.view(attack.adversary), np.random.default_rng(0)
    found = attack.run(view, leaky.bench, leaky.truth, rng=rng)
    assert found.membership.auc.n_nonmembers > 30
    assert "3 clients" in found.note
