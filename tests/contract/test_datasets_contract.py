"""What every data set promises: a check that never raises, and arrays of one form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedkd.data.datasets import base
from fedkd.data.datasets.base import Presence, datasets
from fedkd.errors import ConfigError, MissingDataError

every_data_set = pytest.mark.parametrize("name", datasets.names())
SHIPPED = {"digits", "fashion_mini", "gutenberg_mini"}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path) -> Path:
    """Hide whatever this machine has."""
    monkeypatch.setenv("FEDKD_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(base, "SYSTEM_FOLDER", tmp_path / "system")
    return tmp_path / "data"


@every_data_set
def test_its_check_agrees_with_its_load_and_never_raises(name):
    data = datasets.get(name)()
    found = data.check()
    assert isinstance(found, Presence)
    assert found.detail.strip()
    assert found.present == (name in SHIPPED)
    if not found.present:
        with pytest.raises((MissingDataError, ConfigError)) as error:
            data.load()
        assert str(error.value) == found.detail


@every_data_set
def test_its_check_survives_damaged_files(name, nowhere):
    for folder in (nowhere, nowhere / name, nowhere / name.replace("_", "-")):
        folder.mkdir(exist_ok=True)
        for file in ("train-images-idx3-ubyte.gz", "data_batch_1", "batches.meta", "data.npz"):
            (folder / file).write_bytes(b"\x1f\x8b not what it seems")
    found = datasets.get(name)().check()
    assert isinstance(found, Presence)
    assert found.detail.strip()


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_one_loads_anywhere(name):
    arrays = datasets.get(name)().load()
    for inputs, labels in (
        (arrays.train_inputs, arrays.train_labels),
        (arrays.test_inputs, arrays.test_labels),
    ):
        assert inputs.dtype == (np.int16 if datasets.get(name).tokens else np.uint8)
        assert inputs.shape[1:] == arrays.input_shape
        assert labels.dtype == np.int64
        assert len(labels) == len(inputs)
        found = set(labels.flatten().tolist())
        assert found <= set(range(arrays.n_classes))
        if not datasets.get(name).tokens:
            assert found == set(range(arrays.n_classes))


@pytest.mark.parametrize("name", sorted(n for n in SHIPPED if datasets.get(n).tokens))
def test_a_label_of_a_sequence_is_the_next_token(name):
    arrays = datasets.get(name)().load()
    for inputs, labels in (
        (arrays.train_inputs, arrays.train_labels),
        (arrays.test_inputs, arrays.test_labels),
    ):
        assert labels.shape == inputs.shape
        assert np.array_equal(inputs[:, 1:], labels[:, :-1])
    assert arrays.strata is not None
    assert len(arrays.strata) == len(arrays.train_inputs)
    assert len(arrays.words) == arrays.n_classes


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_limit_takes_a_balanced_part(name):
    arrays = datasets.get(name)(limit=100).load()
    counts = np.bincount(arrays.groups)
    assert counts.sum() == 100
    assert counts.max() - counts.min() <= 1
    assert np.array_equal(arrays.test_labels, datasets.get(name)().load().test_labels)


@every_data_set
def test_it_has_a_limit(name):
    assert datasets.get(name)().limit is None
