"""What every partitioner promises: rows of the data, for every client, from its rng alone."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd.data.partitioners.base import partitioners
from fedkd.errors import ConfigError

every_partitioner = pytest.mark.parametrize("name", partitioners.names())
LABELS = np.random.default_rng(0).permutation(np.arange(600) % 10)
WITH_REPLACEMENT = {"resample"}


def _split(name, n_clients=6, *, seed=0, labels=LABELS):
    return partitioners.get(name)().split(labels, n_clients, rng=np.random.default_rng(seed))


@every_partitioner
@pytest.mark.parametrize("n_clients", [1, 6, 10])
def test_every_client_gets_rows_of_the_data(name, n_clients):
    parts = _split(name, n_clients)
    assert len(parts) == n_clients
    for rows in parts:
        assert rows.dtype == np.int64
        assert rows.ndim == 1
        assert len(rows) > 0
        assert 0 <= rows.min() <= rows.max() < len(LABELS)


@every_partitioner
def test_no_row_has_two_owners_unless_rows_are_drawn_with_replacement(name):
    rows = np.concatenate(_split(name))
    assert (len(np.unique(rows)) == len(rows)) == (name not in WITH_REPLACEMENT)


@every_partitioner
def test_the_rng_alone_decides(name, global_seed):
    with global_seed(0):
        first = _split(name)
    with global_seed(1):
        again = _split(name)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, _split(name, seed=1)))


@every_partitioner
def test_labels_are_left_alone(name):
    labels = LABELS.copy()
    _split(name, labels=labels)
    assert np.array_equal(labels, LABELS)


@every_partitioner
def test_what_cannot_be_split_is_refused_with_the_numbers(name):
    few = np.arange(4) % 2
    if name in WITH_REPLACEMENT:
        assert all(len(rows) for rows in _split(name, 50, labels=few))
        return
    with pytest.raises(ConfigError, match=r"50|\b4\b"):
        _split(name, 50, labels=few)
