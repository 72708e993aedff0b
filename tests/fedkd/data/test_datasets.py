"""What holds for every data set, and the two that need no files."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data import subset
from fedkd.data.datasets import fashion_mini
from fedkd.data.datasets.base import datasets
from fedkd.data.datasets.digits import Digits
from fedkd.data.datasets.fashion_mini import FashionMini
from fedkd.errors import ConfigError
from fedkd.registry import build, describe


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", datasets.names())
def test_constructs_without_arguments_and_check_never_raises(name):
    data = datasets.get(name)()
    assert build(datasets.base, describe(data), path="data") == data
    presence = data.check()
    assert presence.present == (name in {"digits", "fashion_mini", "gutenberg_mini"})
    assert len(presence.detail) > 20
    with pytest.raises(ConfigError, match=r"data\.limit: 0 is refused"):
        build(datasets.base, {"name": name, "limit": 0}, path="data")


@pytest.mark.parametrize(
    ("data", "sizes"), [(Digits(), (1500, 297)), (FashionMini(), (5000, 1000))]
)
def test_embedded_sets(data, sizes):
    arrays = data.load()
    assert (len(arrays.train_labels), len(arrays.test_labels)) == sizes
    assert arrays.train_inputs.dtype == arrays.test_inputs.dtype == np.uint8
    assert arrays.train_labels.dtype == np.int64
    assert arrays.train_inputs.min() == 0
    assert arrays.train_inputs.max() == 255
    assert data.check().present
    again = data.load()
    assert np.array_equal(arrays.train_inputs, again.train_inputs)


def test_digits_split_is_stratified():
    arrays = Digits().load()
    share = np.bincount(arrays.test_labels) / (
        np.bincount(arrays.train_labels) + np.bincount(arrays.test_labels)
    )
    np.testing.assert_allclose(share, 297 / 1797, atol=0.01)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array), st.data())
def test_spread_is_a_permutation_with_balanced_prefixes(labels, data):
    size = data.draw(st.integers(1, len(labels)))
    order = subset.spread(labels, rng=rng())
    assert sorted(order) == list(range(len(labels)))
    taken = np.bincount(labels[order[:size]], minlength=5)
    left = np.bincount(labels, minlength=5) - taken
    # A class may lag behind the largest share by more than one only when it is used up.
    assert all(left[c] == 0 for c in range(5) if taken[c] < taken.max() - 1)


def test_limit_is_balanced_nested_and_keeps_the_test_set():
    small, large = Digits(limit=100).load(), Digits(limit=200).load()
    assert np.bincount(small.train_labels).tolist() == [10] * 10
    assert len(small.test_labels) == 297
    rows = {image.tobytes() for image in large.train_inputs}
    assert all(image.tobytes() in rows for image in small.train_inputs)
    with pytest.raises(ConfigError, match=r"limit=1501 is not in 1\.\.1500"):
        Digits(limit=1501).load()
    assert not Digits(limit=1501).check().present


def test_fashion_mini_is_balanced_and_licensed():
    arrays = FashionMini().load()
    assert np.bincount(arrays.train_labels).tolist() == [500] * 10
    assert np.bincount(arrays.test_labels).tolist() == [100] * 10
    # Mean and spread of the full training set, as published: 0.2860 and 0.3530.
    assert arrays.train_inputs.mean() / 255 == pytest.approx(0.2860, abs=0.005)
    assert arrays.train_inputs.std() / 255 == pytest.approx(0.3530, abs=0.005)
    train = {image.tobytes() for image in arrays.train_inputs}
    assert not any(image.tobytes() in train for image in arrays.test_inputs)
    notice = resources.files("fedkd.data").joinpath("fashion_mini.LICENSE").read_text("utf-8")
    assert "Copyright (c) 2017 Zalando SE" in notice
    assert "Permission is hereby granted" in notice


def test_fashion_mini_notices_damage(monkeypatch):
    assert "verified" in FashionMini().check().detail
    monkeypatch.setattr(fashion_mini, "SHA256", "0" * 64)
    presence = FashionMini().check()
    assert not presence.present
    assert "damaged" in presence.detail
    with pytest.raises(ConfigError, match="install fedkd again"):
        FashionMini().load()
