"""Proxy sources take out the rows they promise, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data.proxies.base import proxies
from fedkd.data.proxies.external import External
from fedkd.data.proxies.pooled import Pooled
from fedkd.errors import ConfigError
from fedkd.registry import build
from fedkd.types import ProxySource


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(n=st.integers(0, 300), fraction=st.floats(0.001, 1.0))
def test_pooled_contributes_its_fraction(n, fraction):
    rows = Pooled(fraction=fraction).contribution(n, rng=rng())
    wanted = round(fraction * n)
    assert len(rows) == (max(1, wanted) if n >= 2 else wanted)
    assert len(np.unique(rows)) == len(rows)
    assert all(0 <= row < n for row in rows)
    assert Pooled().set_aside(np.zeros(n, dtype=np.int64), rng=rng()).shape == (0,)


def test_pooled_says_that_it_protects_nothing():
    assert "no guarantee" in str(Pooled.__doc__)
    assert "in clear" in str(Pooled.__doc__)


@given(size=st.integers(1, 99), seed=st.integers(0, 20))
def test_external_is_balanced(size, seed):
    labels = rng(seed).permutation(np.repeat(np.arange(4), 25))
    rows = External(size=size).set_aside(labels, rng=rng(seed))
    counts = np.bincount(labels[rows], minlength=4)
    assert counts.sum() == size
    assert counts.max() - counts.min() <= 1
    assert np.all(np.diff(rows) > 0)


def test_external_takes_more_of_other_classes_when_one_runs_out():
    labels = np.array([0] * 3 + [1] * 50 + [2] * 50)
    rows = External(size=41).set_aside(labels, rng=rng())
    assert np.bincount(labels[rows]).tolist() == [3, 19, 19]
    assert External().contribution(10, rng=rng()).shape == (0,)


def test_external_leaves_something_to_the_clients():
    with pytest.raises(ConfigError, match="size=100 leaves nothing of 100"):
        External(size=100).set_aside(np.zeros(100, dtype=np.int64), rng=rng())


def test_names_sources_and_ranges():
    assert {name: proxies.get(name).source for name in proxies.names()} == {
        "pooled": ProxySource.POOLED,
        "external": ProxySource.EXTERNAL,
    }
    with pytest.raises(ConfigError, match=r"proxy\.fraction: 0 is refused"):
        build(proxies.base, {"name": "pooled", "fraction": 0}, path="proxy")
