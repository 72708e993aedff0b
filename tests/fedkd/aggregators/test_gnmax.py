"""Known answers of the noisy vote; the noise is far too small to turn any of these."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedkd.aggregators.gnmax import GNMax
from fedkd.errors import ConfigError
from fedkd.registry import build
from fedkd.types import Knowledge, Space

QUIET = GNMax(noise_multiplier=1e-9)


def _upload(rows, scores, *, weights=None) -> Knowledge:
    return Knowledge(
        rows=torch.tensor(rows, dtype=torch.int64),
        scores=torch.tensor(scores),
        weights=torch.ones(len(rows)) if weights is None else torch.tensor(weights),
        space=Space.PROBS,
        temperature=2.0,
    )


UPLOADS = [
    _upload([0, 1], [[0.9, 0.1, 0.0], [0.4, 0.3, 0.3]]),
    _upload([0, 2], [[0.9, 0.0, 0.1], [0.1, 0.1, 0.8]]),
    _upload([0, 1, 2], [[0.0, 0.55, 0.45], [0.0, 0.1, 0.9], [0.0, 0.0, 1.0]]),
]


def _counts(*uploads: Knowledge, n_rows: int = 4) -> list[list[float]]:
    state = QUIET.partial(uploads[0], n_rows=n_rows)
    for upload in uploads[1:]:
        state = QUIET.merge(state, QUIET.partial(upload, n_rows=n_rows))
    return state.scores.tolist()


def test_every_upload_is_one_vote_for_each_row_it_holds():
    assert _counts(*UPLOADS) == [[2, 1, 0], [1, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_neither_weight_nor_confidence_counts():
    unsure = _upload([0, 1], [[0.34, 0.33, 0.33], [0.0, 0.49, 0.51]], weights=[0.01, 0.5])
    sure = _upload([0, 1], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert _counts(unsure) == _counts(sure)


def test_a_tie_in_an_upload_goes_to_the_lowest_class():
    tied = _upload([1, 2], [[0.0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    assert _counts(tied) == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_the_winner_is_announced_as_a_one_hot_row():
    consensus = QUIET.aggregate(UPLOADS, n_rows=4, rng=torch.Generator().manual_seed(0))
    assert consensus.rows.tolist() == [0, 1, 2, 3]
    assert consensus.scores[0].tolist() == [1, 0, 0]
    assert consensus.scores[2].tolist() == [0, 0, 1]
    assert consensus.scores[1].tolist() in ([1, 0, 0], [0, 0, 1])  # a tie: the noise decides
    assert consensus.scores.dtype == torch.float32
    assert consensus.scores.sum(dim=1).tolist() == [1, 1, 1, 1]
    assert consensus.keepers is not None
    assert consensus.keepers.tolist() == [3, 2, 2, 0]
    assert (consensus.space, consensus.temperature) == (Space.PROBS, 2.0)


def test_a_client_that_keeps_no_row_changes_no_vote():
    silent = _upload([], [])
    silent = replace(silent, scores=torch.empty(0, 3))
    answers = [
        QUIET.aggregate(uploads, n_rows=4, rng=torch.Generator().manual_seed(0)).scores
        for uploads in (UPLOADS, [silent, *UPLOADS])
    ]
    assert torch.equal(*answers)


def test_told_temperatures_stop_at_the_server():
    told = [replace(u, row_temperatures=torch.full(u.rows.shape, 5.0)) for u in UPLOADS]
    rngs = [torch.Generator().manual_seed(0) for _ in range(2)]
    consensus = QUIET.aggregate(told, n_rows=4, rng=rngs[0])
    assert consensus.row_temperatures is None
    assert torch.equal(consensus.scores, QUIET.aggregate(UPLOADS, n_rows=4, rng=rngs[1]).scores)


@pytest.mark.parametrize("noise", [0.0, -1.0])
def test_no_noise_is_refused_where_a_scenario_is_read(noise):
    with pytest.raises(ConfigError, match="greater than 0"):
        build(GNMax, {"noise_multiplier": noise}, path="method.aggregator")
