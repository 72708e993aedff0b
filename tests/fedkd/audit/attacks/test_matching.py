"""Matched members and non-members: the same shares of classes, nothing twice."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.audit.attacks.matching import matched
from fedkd.training.steps import Examples

labels_of = st.lists(st.integers(0, 4), min_size=0, max_size=80)


def _examples(labels: list[int]) -> Examples:
    return Examples(
        inputs=torch.arange(len(labels))[:, None], labels=torch.tensor(labels, dtype=torch.int64)
    )


@given(mine=labels_of, theirs=labels_of, most=st.integers(5, 60), seed=st.integers(0, 9))
def test_every_class_has_the_same_ratio(mine, theirs, most, seed):
    sides = matched(_examples(mine), _examples(theirs), rng=np.random.default_rng(seed), most=most)
    ours, others = (np.bincount(side.labels.numpy(), minlength=5) for side in sides)
    shared = sorted(set(mine) & set(theirs))
    assert sorted(np.flatnonzero(ours)) == sorted(np.flatnonzero(others)) == shared
    assert len({int(a) // int(b) for a, b in zip(ours, others, strict=True) if b}) <= 1
    assert all(int(a) % int(b) == 0 for a, b in zip(ours, others, strict=True) if b)
    for side, labels in zip(sides, (mine, theirs), strict=True):
        at = side.inputs[:, 0].numpy()
        assert len(side) <= most
        assert len(set(at.tolist())) == len(at)
        assert [labels[i] for i in at] == side.labels.tolist()


def test_a_client_of_one_class_keeps_more_members_than_there_are_non_members():
    members, others = matched(
        _examples([3] * 70), _examples([0, 1, 2, 3, 3] * 4), rng=np.random.default_rng(0)
    )
    assert members.labels.tolist() == [3] * 64
    assert others.labels.tolist() == [3] * 8


def test_sequences_are_all_alike():
    texts = Examples(inputs=torch.zeros(6, 4), labels=torch.zeros(6, 4, dtype=torch.int64))
    members, others = matched(texts, texts, rng=np.random.default_rng(0), most=4)
    assert members.labels.shape == others.labels.shape == (4, 4)
