"""Known answers of Selective-FD's server selector."""

import pytest
import torch

from fedkd.aggregators.mean import Mean
from fedkd.aggregators.selective_mean import SelectiveMean
from fedkd.errors import ConfigError
from fedkd.types import Knowledge, Space


def _upload(rows, scores, space=Space.PROBS) -> Knowledge:
    return Knowledge(
        rows=torch.tensor(rows),
        scores=torch.tensor(scores),
        weights=torch.ones(len(rows)),
        space=space,
    )


UPLOADS = [
    _upload([0, 1, 3], [[1.0, 0.0], [1.0, 0.0], [0.75, 0.25]]),
    _upload([0, 1], [[1.0, 0.0], [0.0, 1.0]]),
]


def _aggregate(aggregator, uploads):
    return aggregator.aggregate(uploads, n_rows=5, rng=torch.Generator())


def test_rows_at_the_distance_or_beyond_are_dropped():
    # Means: (1, 0) at distance 0, (.5, .5) at 1, (.75, .25) at .5; rows 2 and 4 have no keeper.
    by_ambiguity = {a: _aggregate(SelectiveMean(ambiguity=a), UPLOADS) for a in (0.5, 0.75, 1.5)}
    assert {a: c.rows.tolist() for a, c in by_ambiguity.items()} == {
        0.5: [0],
        0.75: [0, 3],
        1.5: [0, 1, 3],
    }
    assert by_ambiguity[0.75].keepers.tolist() == [2, 1]
    assert by_ambiguity[0.75].scores.tolist() == [[1.0, 0.0], [0.75, 0.25]]


def test_two_is_off_and_gives_the_plain_mean():
    selective, mean = _aggregate(SelectiveMean(), UPLOADS), _aggregate(Mean(), UPLOADS)
    assert torch.equal(selective.rows, mean.rows)
    assert torch.equal(selective.scores, mean.scores)
    assert torch.equal(selective.keepers, mean.keepers)


def test_the_order_of_clients_does_not_matter():
    rng = torch.Generator().manual_seed(0)
    uploads = []
    for _ in range(8):
        rows = torch.nonzero(torch.rand(5, generator=rng) < 0.7).flatten()
        uploads.append(
            Knowledge(
                rows=rows,
                scores=torch.rand(len(rows), 3, generator=rng).softmax(dim=1),
                weights=torch.rand(len(rows), generator=rng).clamp(min=0.01),
                space=Space.PROBS,
            )
        )
    first = _aggregate(SelectiveMean(ambiguity=1.26), uploads)
    assert 0 < len(first) < 5
    for _ in range(5):
        order = torch.randperm(8, generator=rng).tolist()
        again = _aggregate(SelectiveMean(ambiguity=1.26), [uploads[i] for i in order])
        assert torch.equal(first.rows, again.rows)
        torch.testing.assert_close(first.scores, again.scores, rtol=1e-6, atol=0)


def test_logits_are_refused_by_name():
    with pytest.raises(ConfigError, match="'logits'"):
        _aggregate(SelectiveMean(), [_upload([0], [[3.0, -1.0]], space=Space.LOGITS)])
