"""Known answers of the noisy mean; the noise is far below what is compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedkd.aggregators.mean import Mean
from fedkd.aggregators.noisy_mean import NoisyMean
from fedkd.errors import ConfigError
from fedkd.types import Knowledge, Space

QUIET = NoisyMean(noise_multiplier=1e-12)


def _upload(rows, scores, *, weights=None) -> Knowledge:
    return Knowledge(
        rows=torch.tensor(rows, dtype=torch.int64),
        scores=torch.tensor(scores),
        weights=torch.ones(len(rows)) if weights is None else torch.tensor(weights),
        space=Space.PROBS,
        temperature=2.0,
    )


def _aggregate(*uploads: Knowledge, n_rows: int):
    return QUIET.aggregate(uploads, n_rows=n_rows, rng=torch.Generator().manual_seed(0))


def _cohort(seed: int, *, n_clients: int = 7) -> list[Knowledge]:
    rng = torch.Generator().manual_seed(seed)
    rows = list(range(6))
    return [
        _upload(rows, torch.randn(6, 4, generator=rng).softmax(dim=1).tolist())
        for _ in range(n_clients)
    ]


def test_it_is_the_mean_where_everybody_speaks_and_no_noise_shows():
    uploads = _cohort(1)
    plain = Mean().aggregate(uploads, n_rows=6, rng=torch.Generator())
    torch.testing.assert_close(
        _aggregate(*uploads, n_rows=6).scores, plain.scores, rtol=0, atol=1e-7
    )


def test_a_row_is_divided_by_all_uploads_and_what_is_missing_comes_out_flat():
    uploads = [_upload([0], [[1.0, 0.0]]), _upload([1], [[0.0, 1.0]]), _upload([1], [[0.0, 1.0]])]
    # Sums over 3 uploads: (1/3, 0), (0, 2/3), (0, 0); the missing mass is spread evenly.
    expected = torch.tensor([[2 / 3, 1 / 3], [1 / 6, 5 / 6], [0.5, 0.5]])
    consensus = _aggregate(*uploads, n_rows=3)
    torch.testing.assert_close(consensus.scores, expected, rtol=0, atol=1e-7)
    assert consensus.rows.tolist() == [0, 1, 2]
    assert consensus.keepers is not None
    assert consensus.keepers.tolist() == [1, 2, 0]


def test_what_a_client_keeps_and_how_it_weighs_does_not_move_the_divisor():
    rows = [
        _upload([0, 1], [[1.0, 0.0], [1.0, 0.0]], weights=[0.25, 1.0]),
        _upload([1], [[1.0, 0.0]]),
        replace(_upload([], []), scores=torch.empty(0, 2)),
    ]
    for upload in rows:
        assert QUIET.partial(upload, n_rows=3).mass.tolist() == [1, 1, 1]
    both = QUIET.merge(QUIET.partial(rows[0], n_rows=3), QUIET.partial(rows[2], n_rows=3))
    assert both.mass.tolist() == [2, 2, 2]


def test_the_state_of_a_thousand_clients_is_as_large_as_that_of_one():
    uploads = _cohort(3, n_clients=1000)
    one = state = QUIET.partial(uploads[0], n_rows=6)
    for upload in uploads[1:]:
        state = QUIET.merge(state, QUIET.partial(upload, n_rows=6))
    assert state.mass.tolist() == [1000] * 6
    for name in ("scores", "mass", "keepers"):
        assert getattr(state, name).shape == getattr(one, name).shape


@pytest.mark.parametrize(
    ("scores", "weight"),
    [([3.0, 4.0], 1.0), ([0.6, 0.8], 5.0), ([1.0, -1.0], 1.0), ([1.0005, 0.0], 1.0)],
)
def test_no_upload_can_put_more_than_length_one_into_a_row(scores, weight):
    state = QUIET.partial(_upload([0], [scores], weights=[weight]), n_rows=1)
    assert 0 < float(state.scores.norm()) <= 1 + 1e-15
    assert bool((state.scores >= 0).all())


def test_a_negative_weight_counts_nothing():
    state = QUIET.partial(_upload([0], [[0.5, 0.5]], weights=[-1.0]), n_rows=1)
    assert state.scores.tolist() == [[0, 0]]


def test_what_has_no_bound_or_no_noise_is_refused_by_name():
    upload = _upload([0], [[3.0, -1.0]])
    with pytest.raises(ConfigError, match="'logits'"):
        _aggregate(replace(upload, space=Space.LOGITS), n_rows=1)
    with pytest.raises(ConfigError, match="server_temperature=agreed"):
        _aggregate(replace(upload, row_temperatures=torch.tensor([2.0])), n_rows=1)
