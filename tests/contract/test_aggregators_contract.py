"""What every aggregator promises, on generated uploads.

Some release their consensus under a counted privacy event. They make other promises than an
average does: they answer every row, since a missing one would tell what clients kept.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.aggregators.base import Aggregator, aggregators
from fedkd.errors import ConfigError
from fedkd.privacy.events import Gaussian
from fedkd.privacy.releases import lacks_noise
from fedkd.types import Knowledge, Space

TEMPERATURE = 3.0
ULP = 2.0**-23


def _made(name, *, noise_multiplier: float = 0.5) -> Aggregator:
    """Return an aggregator, with a noise multiplier where a run would have to plan one."""
    aggregator = aggregators.get(name)()
    if lacks_noise(aggregator):
        return replace(aggregator, noise_multiplier=noise_multiplier)
    return aggregator


PRIVATE = [name for name in aggregators.names() if _made(name).event(n_rows=1).counted]
AVERAGES = [name for name in aggregators.names() if name not in PRIVATE]
every_aggregator = pytest.mark.parametrize("name", aggregators.names())
every_average = pytest.mark.parametrize("name", AVERAGES)
every_private_one = pytest.mark.parametrize("name", PRIVATE)


def _upload(rows, seed: int, *, n_classes: int) -> Knowledge:
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(len(rows), n_classes, generator=rng)
    return Knowledge(
        rows=torch.tensor(sorted(rows), dtype=torch.int64),
        scores=logits.softmax(dim=1),
        weights=1 - torch.rand(len(rows), generator=rng),
        space=Space.PROBS,
        temperature=TEMPERATURE,
    )


@st.composite
def _rounds(draw, *, most: int = 6):
    """Return the number of proxy rows and some clients' uploads; somebody keeps something."""
    n_rows, n_classes = draw(st.integers(1, 9)), draw(st.integers(2, 5))
    subsets = st.sets(st.integers(0, n_rows - 1))
    kept = draw(st.lists(subsets, min_size=1, max_size=most).filter(any))
    seed = draw(st.integers(0, 10_000))
    return n_rows, [_upload(r, seed + i, n_classes=n_classes) for i, r in enumerate(kept)]


def _aggregate(name, uploads, n_rows):
    rng = torch.Generator().manual_seed(0)
    return _made(name).aggregate(uploads, n_rows=n_rows, rng=rng)


def _same(left, right) -> bool:
    pairs = [(left.rows, right.rows), (left.scores, right.scores), (left.keepers, right.keepers)]
    return all(torch.equal(a, b) for a, b in pairs)


@every_aggregator
@given(case=_rounds(), order=st.randoms(use_true_random=False))
def test_the_order_of_uploads_is_irrelevant(name, case, order):
    n_rows, uploads = case
    first = _aggregate(name, uploads, n_rows)
    order.shuffle(uploads)
    again = _aggregate(name, uploads, n_rows)
    assert torch.equal(first.rows, again.rows)
    assert torch.equal(first.keepers, again.keepers)
    torch.testing.assert_close(first.scores, again.scores, rtol=ULP, atol=1e-12)


@every_aggregator
def test_it_says_whether_uploads_may_tell_row_temperatures(name):
    upload = _upload([0, 2], 3, n_classes=4)
    told = replace(upload, row_temperatures=torch.full((2,), TEMPERATURE))
    if _made(name).reads_row_temperatures:
        assert len(_aggregate(name, [told, told], 3)) > 0
    else:
        with pytest.raises(ConfigError, match="row by row"):
            _aggregate(name, [told, told], 3)


@every_average
@given(case=_rounds(), place=st.integers(0, 6))
def test_a_client_that_keeps_no_row_leaves_no_trace(name, case, place):
    n_rows, uploads = case
    silent = _upload([], 0, n_classes=uploads[0].scores.shape[1])
    with_it = [*uploads[:place], silent, *uploads[place:]]
    assert _same(_aggregate(name, with_it, n_rows), _aggregate(name, uploads, n_rows))


@every_average
@given(case=_rounds())
def test_rows_nobody_kept_are_absent_and_keepers_are_counted(name, case):
    n_rows, uploads = case
    consensus = _aggregate(name, uploads, n_rows)
    held = [row for upload in uploads for row in upload.rows.tolist()]
    rows, counts = consensus.rows.tolist(), [held.count(row) for row in consensus.rows.tolist()]
    if _made(name).leaves_out:
        assert rows == sorted(set(rows) & set(held))
        assert all(0 < n <= c for n, c in zip(consensus.keepers.tolist(), counts, strict=True))
    else:
        assert rows == sorted(set(held))
        assert consensus.keepers.tolist() == counts
    assert consensus.scores.shape == (len(consensus), uploads[0].scores.shape[1])


@every_average
def test_nobody_who_keeps_anything_makes_an_empty_consensus(name):
    silent = _upload([], 0, n_classes=3)
    consensus = _aggregate(name, [silent, silent], 4)
    assert len(consensus) == 0
    assert consensus.scores.shape == (0, 3)
    assert consensus.keepers.shape == (0,)


@every_average
@given(case=_rounds(most=1))
def test_one_upload_in_its_own_probabilities_out(name, case):
    n_rows, (upload,) = case
    consensus = _aggregate(name, [upload], n_rows)
    assert torch.equal(consensus.rows, upload.rows)
    torch.testing.assert_close(consensus.scores, upload.scores, rtol=ULP, atol=0)
    assert (consensus.space, consensus.temperature) == (Space.PROBS, TEMPERATURE)


@every_aggregator
@given(case=_rounds())
def test_rows_stay_probabilities(name, case):
    n_rows, uploads = case
    scores = _aggregate(name, uploads, n_rows).scores
    assert scores.dtype == torch.float32
    assert bool((scores >= 0).all())
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(len(scores)), rtol=0, atol=1e-6)


@every_aggregator
@given(case=_rounds())
def test_uploads_are_left_alone(name, case):
    n_rows, uploads = case
    before = [(u.rows.clone(), u.scores.clone(), u.weights.clone()) for u in uploads]
    _aggregate(name, uploads, n_rows)
    for upload, (rows, scores, weights) in zip(uploads, before, strict=True):
        assert torch.equal(upload.rows, rows)
        assert torch.equal(upload.scores, scores)
        assert torch.equal(upload.weights, weights)


@every_aggregator
def test_nothing_and_mixed_spaces_are_refused(name):
    upload = _upload([0, 1], 0, n_classes=3)
    with pytest.raises(ValueError, match="no uploads"):
        _aggregate(name, [], 2)
    for other in (replace(upload, space=Space.LOGITS), replace(upload, temperature=1.0)):
        with pytest.raises(ValueError, match="cannot be averaged"):
            _aggregate(name, [upload, other], 2)


def test_there_are_both_kinds():
    assert PRIVATE
    assert AVERAGES


@every_private_one
@given(case=_rounds())
def test_a_private_one_answers_every_row_and_counts_keepers_for_the_server(name, case):
    n_rows, uploads = case
    consensus = _aggregate(name, uploads, n_rows)
    held = [row for upload in uploads for row in upload.rows.tolist()]
    assert consensus.rows.tolist() == list(range(n_rows))
    assert consensus.keepers.tolist() == [held.count(row) for row in range(n_rows)]
    assert consensus.scores.shape == (n_rows, uploads[0].scores.shape[1])
    assert (consensus.space, consensus.temperature) == (Space.PROBS, TEMPERATURE)
    assert consensus.row_temperatures is None


@every_private_one
@given(case=_rounds(), other=st.integers(10_001, 20_000), data=st.data())
def test_replacing_a_client_moves_what_gets_the_noise_by_no_more_than_it_says(
    name, case, other, data
):
    n_rows, (first, *others) = case
    rows = data.draw(st.sets(st.integers(0, n_rows - 1)))
    instead = _upload(rows, other, n_classes=first.scores.shape[1])
    aggregator = _made(name)

    def state_of(upload):
        state = aggregator.partial(upload, n_rows=n_rows)
        for o in others:
            state = aggregator.merge(state, aggregator.partial(o, n_rows=n_rows))
        return state

    with_first, with_other = state_of(first), state_of(instead)
    moved = (with_first.scores - with_other.scores).norm()
    assert moved <= (2 * n_rows) ** 0.5 * (1 + 1e-9)


@every_private_one
def test_the_noise_comes_from_the_given_stream_alone(name, global_seed):
    uploads = [_upload(range(40), seed, n_classes=5) for seed in range(3)]
    found = []
    for seed in (0, 1):
        with global_seed(seed):
            found.append(_aggregate(name, uploads, 40).scores)
    assert torch.equal(*found)
    rng = torch.Generator().manual_seed(1)
    other = _made(name).aggregate(uploads, n_rows=40, rng=rng).scores
    assert not torch.equal(found[0], other)


@every_private_one
@pytest.mark.parametrize("n_rows", [1, 1000])
def test_its_event_is_gaussian_noise_relative_to_the_whole_release(name, n_rows):
    aggregator = _made(name, noise_multiplier=0.7)
    assert aggregator.event(n_rows=n_rows) == Gaussian(0.7)


@every_private_one
def test_unknown_noise_is_uncounted_and_never_no_noise(name):
    aggregator, upload = aggregators.get(name)(), _upload([0, 1], 0, n_classes=3)
    assert not aggregator.event(n_rows=2).counted
    with pytest.raises(ConfigError, match=r"privacy\.target_epsilon"):
        aggregator.aggregate([upload], n_rows=2, rng=torch.Generator())


@every_average
def test_an_average_carries_no_noise_and_says_so(name):
    uploads = [_upload(range(40), seed, n_classes=5) for seed in range(3)]
    aggregator = aggregators.get(name)()
    found = [
        aggregator.aggregate(uploads, n_rows=40, rng=torch.Generator().manual_seed(seed)).scores
        for seed in (0, 1)
    ]
    assert torch.equal(*found)
    assert not aggregator.event(n_rows=40).counted
