"""Partitioners share rows out exactly: disjoint, in range, reproducible, and always finishing."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.data.partitioners.base import Partitioner, partitioners
from fedkd.data.partitioners.dirichlet import Dirichlet
from fedkd.data.partitioners.dirichlet_equal import DirichletEqual
from fedkd.data.partitioners.iid import Iid
from fedkd.data.partitioners.pathological import Pathological
from fedkd.data.partitioners.resample import Resample
from fedkd.data.partitioners.shard import Shard
from fedkd.errors import ConfigError

ALPHAS = st.sampled_from([1e-300, 1e-6, 0.01, 0.1, 1.0, 100.0, 1e6])
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(np.array)
DISJOINT = st.one_of(
    st.just(Iid()),
    st.builds(Pathological, classes_per_client=st.integers(1, 3)),
    st.builds(Dirichlet, alpha=ALPHAS, min_rows=st.integers(1, 10)),
    st.builds(DirichletEqual, alpha=ALPHAS),
    st.builds(Shard, shards_per_client=st.integers(1, 4)),
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def balanced(n: int, n_classes: int = 10) -> np.ndarray:
    return rng(1).permutation(np.arange(n) % n_classes)


def split_or_skip(part: Partitioner, labels: np.ndarray, n_clients: int, seed: int):
    try:
        return part.split(labels, n_clients, rng=rng(seed))
    except ConfigError:
        return None


@settings(max_examples=150, deadline=None)
@given(part=DISJOINT, labels=LABELS, n_clients=st.integers(1, 30), seed=st.integers(0, 99))
def test_clients_are_disjoint_nonempty_and_in_range(part, labels, n_clients, seed):
    parts = split_or_skip(part, labels, n_clients, seed)
    if parts is None:
        return
    assert len(parts) == n_clients
    assert all(rows.dtype == np.int64 and len(rows) > 0 for rows in parts)
    every = np.concatenate(parts)
    assert len(np.unique(every)) == len(every)
    assert every.min() >= 0
    assert every.max() < len(labels)


@settings(max_examples=60, deadline=None)
@given(part=DISJOINT, labels=LABELS, n_clients=st.integers(1, 12))
def test_the_generator_decides_everything(part, labels, n_clients):
    first, again = (split_or_skip(part, labels, n_clients, 3) for _ in range(2))
    if first is not None:
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", partitioners.names())
def test_another_seed_another_split_and_no_row_order(name):
    part, labels = partitioners.get(name)(), balanced(600)
    one, other = (part.split(labels, 5, rng=rng(seed)) for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    # Rows come in random order, so that a prefix is an unbiased sample of the client.
    assert any(np.any(np.diff(rows) < 0) for rows in one)
    assert not np.array_equal(labels[one[0]], np.sort(labels[one[0]])) or name == "pathological"


@settings(max_examples=80, deadline=None)
@given(labels=LABELS, alpha=ALPHAS, min_rows=st.integers(1, 12), n_clients=st.integers(1, 30))
def test_dirichlet_uses_all_rows_and_respects_min_rows(labels, alpha, min_rows, n_clients):
    part = Dirichlet(alpha=alpha, min_rows=min_rows)
    if len(labels) < n_clients * min_rows:
        with pytest.raises(ConfigError, match=rf"{n_clients * min_rows} rows.*{len(labels)}"):
            part.split(labels, n_clients, rng=rng())
        return
    parts = part.split(labels, n_clients, rng=rng())
    assert sum(map(len, parts)) == len(labels)
    assert min(map(len, parts)) >= min_rows


@settings(max_examples=80, deadline=None)
@given(labels=LABELS, alpha=ALPHAS, n_clients=st.integers(1, 30), seed=st.integers(0, 50))
def test_dirichlet_equal_is_equal(labels, alpha, n_clients, seed):
    parts = split_or_skip(DirichletEqual(alpha=alpha), labels, n_clients, seed)
    if parts is not None:
        assert {len(rows) for rows in parts} == {len(labels) // n_clients}


def test_dirichlet_equal_is_fast_and_skewed():
    labels = balanced(60_000)
    started = time.perf_counter()
    parts = DirichletEqual(alpha=0.1).split(labels, 1000, rng=rng())
    assert time.perf_counter() - started < 3  # about 0.1 s; the slack is for a busy machine
    top = np.mean([np.bincount(labels[rows]).max() / len(rows) for rows in parts])
    assert top > 0.6


@pytest.mark.parametrize("cls", [Dirichlet, DirichletEqual])
def test_alpha_rules_the_skew(cls):
    labels = balanced(5000)

    def skew(alpha: float) -> float:
        parts = cls(alpha=alpha).split(labels, 20, rng=rng())
        return float(np.mean([np.bincount(labels[rows]).max() / len(rows) for rows in parts]))

    assert skew(0.05) > skew(0.5) > skew(100.0)
    assert skew(1000.0) < 0.2


@pytest.mark.parametrize(("k", "n_clients"), [(1, 10), (2, 10), (3, 25), (2, 4), (10, 3)])
def test_pathological_gives_consecutive_classes_and_even_shares(k, n_clients):
    labels = balanced(3000)
    parts = Pathological(classes_per_client=k).split(labels, n_clients, rng=rng())
    for client, rows in enumerate(parts):
        assert set(labels[rows]) == {(client + j) % 10 for j in range(k)}
    held = {label for i in range(n_clients) for label in ((i + j) % 10 for j in range(k))}
    assert sum(map(len, parts)) == 300 * len(held)
    counts = np.array([np.bincount(labels[rows], minlength=10) for rows in parts])
    for label in held:
        shares = counts[:, label][counts[:, label] > 0]
        assert shares.max() - shares.min() <= 1


def test_pathological_refuses_the_impossible():
    with pytest.raises(ConfigError, match="classes_per_client=11, but only 10"):
        Pathological(classes_per_client=11).split(balanced(100), 5, rng=rng())
    with pytest.raises(ConfigError, match="5 of 5 clients hold class 1, which has 2 rows"):
        Pathological(classes_per_client=2).split(np.array([0] * 9 + [1] * 2), 5, rng=rng())


def test_shard_deals_few_classes_in_nearly_equal_parts():
    labels = balanced(1003)
    parts = Shard(shards_per_client=2).split(labels, 20, rng=rng())
    assert sum(map(len, parts)) == 1003
    assert {len(rows) for rows in parts} <= {50, 51, 52}
    assert max(len(set(labels[rows])) for rows in parts) <= 4


def test_iid_uses_all_rows():
    parts = Iid().split(balanced(1003), 10, rng=rng())
    assert sorted(np.concatenate(parts)) == list(range(1003))
    assert {len(rows) for rows in parts} == {100, 101}
    with pytest.raises(ConfigError, match="11 rows, there are 10"):
        Iid().split(balanced(10), 11, rng=rng())


@settings(max_examples=40, deadline=None)
@given(labels=LABELS, rows=st.integers(1, 60), alpha=ALPHAS)
def test_resample_serves_more_clients_than_rows(labels, rows, alpha):
    parts = Resample(rows=rows, alpha=alpha).split(labels, 300, rng=rng())
    assert {part.shape for part in parts} == {(rows,)}
    assert all(part.min() >= 0 and part.max() < len(labels) for part in parts)


def test_resample_draws_every_row_of_a_class_alike():
    parts = Resample(rows=100, alpha=1.0).split(np.array([0, 0, 0, 0, 1]), 2000, rng=rng())
    counts = np.bincount(np.concatenate(parts), minlength=5) / 200_000
    np.testing.assert_allclose(counts, [0.125] * 4 + [0.5], atol=0.02)
