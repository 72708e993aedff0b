"""Temperatures told row by row are averaged as the scores beside them are."""

from __future__ import annotations

import pytest
import torch

from fedkd.aggregators.mean import Mean
from fedkd.aggregators.selective_mean import SelectiveMean
from fedkd.types import Knowledge, Space


def _upload(rows, told, weights, *, sure: bool = True) -> Knowledge:
    scores = torch.eye(2)[[0] * len(rows)] if sure else torch.full((len(rows), 2), 0.5)
    return Knowledge(
        rows=torch.tensor(rows, dtype=torch.int64),
        scores=scores,
        weights=torch.tensor(weights),
        space=Space.PROBS,
        temperature=3.0,
        row_temperatures=None if told is None else torch.tensor(told),
    )


def _aggregate(uploads, aggregator=None):
    aggregator = aggregator or Mean()
    return aggregator.aggregate(uploads, n_rows=6, rng=torch.Generator())


def test_each_row_has_the_weighted_mean_of_its_keepers():
    found = _aggregate(
        [
            _upload([0, 2], [3.0, 4.0], [1.0, 0.25]),
            _upload([2, 5], [8.0, 6.0], [0.75, 1.0]),
            _upload([], [], []),
        ]
    )
    assert found.rows.tolist() == [0, 2, 5]
    assert found.row_temperatures.tolist() == [3.0, 0.25 * 4 + 0.75 * 8, 6.0]
    assert found.row_temperatures.dtype == torch.float32


def test_nobody_tells_none():
    assert _aggregate([_upload([0], None, [1.0])] * 2).row_temperatures is None


def test_some_who_tell_and_some_who_do_not_cannot_be_averaged():
    mixed = [_upload([0], None, [1.0]), _upload([0], [3.0], [1.0])]
    for uploads in (mixed, mixed[::-1]):
        with pytest.raises(ValueError, match="cannot be averaged"):
            _aggregate(uploads)


def test_a_dropped_row_takes_its_temperature_along():
    uploads = [_upload([0, 3], [4.0, 5.0], [1.0, 1.0]), _upload([1], [6.0], [1.0], sure=False)]
    found = _aggregate(uploads, SelectiveMean(ambiguity=0.5))
    assert found.rows.tolist() == [0, 3]
    assert found.row_temperatures.tolist() == [4.0, 5.0]
    assert _aggregate([_upload([0], None, [1.0])], SelectiveMean(ambiguity=0.5)).rows.tolist() == [
        0
    ]
