"""Streaming sums against the loop over rows that anybody would write first."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.aggregators.base import Sums, aggregators
from fedkd.aggregators.mean import Mean
from fedkd.aggregators.streaming import (
    CROWDED,
    LANE,
    SLIM,
    WIDE,
    fold,
    settled,
    sums_from_tensors,
    sums_to_tensors,
    weighted_sums,
)
from fedkd.privacy.releases import lacks_noise
from fedkd.transport.codes import as_sent
from fedkd.types import Knowledge, Space, Wire

HALF_UNIT = 2.0**-24
"""Relative rounding of one float32 operation."""


def _upload(n_rows: int, keep: float, n_classes: int, *, seed: int, soft: bool = False):
    rng = torch.Generator().manual_seed(seed)
    rows = torch.nonzero(torch.rand(n_rows, generator=rng) < keep).flatten()
    n = len(rows)
    return Knowledge(
        rows=rows,
        scores=torch.randn(n, n_classes, generator=rng),
        weights=1 - torch.rand(n, generator=rng) if soft else torch.ones(n),
        space=Space.LOGITS,
    )


def _loop(uploads, n_rows: int, n_classes: int):
    """The oracle: float64 lists of weighted sums and masses, and keepers, row by row."""
    sums = [[0.0] * n_classes for _ in range(n_rows)]
    mass, keepers = [0.0] * n_rows, [0] * n_rows
    for upload in uploads:
        held = zip(
            upload.rows.tolist(), upload.scores.tolist(), upload.weights.tolist(), strict=True
        )
        for row, scores, weight in held:
            mass[row] += weight
            keepers[row] += 1
            for c, score in enumerate(scores):
                sums[row][c] += score * weight
    return (
        torch.tensor(sums, dtype=torch.float64).reshape(n_rows, n_classes),
        torch.tensor(mass, dtype=torch.float64),
        torch.tensor(keepers),
    )


def _folded(uploads, n_rows: int) -> Sums:
    state = None
    for upload in uploads:
        state = fold(state, upload, n_rows=n_rows)
    return settled(state)


def _equal(left: Sums, right: Sums) -> bool:
    names = ("scores", "mass", "keepers")
    return all(torch.equal(getattr(left, n), getattr(right, n)) for n in names)


@given(
    keeps=st.lists(st.sampled_from([0.0, 0.1, 0.4, 0.7, 1.0]), min_size=1, max_size=5),
    n_rows=st.integers(1, 40),
    n_classes=st.sampled_from([1, 3, SLIM, SLIM + 1]),
    soft=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_few_classes_give_the_bits_of_the_loop_on_every_path(keeps, n_rows, n_classes, soft, seed):
    uploads = [
        _upload(n_rows, keep, n_classes, seed=seed + i, soft=soft) for i, keep in enumerate(keeps)
    ]
    state = _folded(uploads, n_rows)
    sums, mass, keepers = _loop(uploads, n_rows, n_classes)
    assert torch.equal(state.scores, sums)
    assert torch.equal(state.mass, mass)
    assert torch.equal(state.keepers, keepers)


def test_every_path_is_taken(monkeypatch):
    taken = []
    real = {name: getattr(torch.Tensor, name) for name in ("index_add_", "index_select", "add_")}
    for name, method in real.items():

        def noted(self, *rest, _name=name, _method=method):
            taken.append(_name)
            return _method(self, *rest)

        monkeypatch.setattr(torch.Tensor, name, noted)
    for keep, wanted in ((0.2, "index_add_"), (CROWDED + 0.2, "index_select"), (1.0, "add_")):
        taken.clear()
        fold(None, _upload(200, keep, SLIM, seed=0), n_rows=200)
        assert set(taken) - {"add_"} == {wanted} - {"add_"}
        assert wanted in taken


@pytest.mark.parametrize("keep", [0.15, 0.6, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_many_classes_stay_within_the_rounding_of_one_lane(keep, dtype):
    n_rows, n = 6, 2 * LANE + 5
    uploads = [_upload(n_rows, keep, WIDE, seed=seed) for seed in range(n)]
    uploads = [upload for upload in uploads if len(upload)]
    uploads = [replace(u, scores=u.scores.to(dtype)) for u in uploads]
    state = _folded(uploads, n_rows)
    sums, mass, keepers = _loop(uploads, n_rows, WIDE)
    sizes, _, _ = _loop([replace(u, scores=u.scores.abs()) for u in uploads], n_rows, WIDE)
    assert bool(((state.scores - sums).abs() <= (LANE - 1) * HALF_UNIT * sizes).all())
    assert state.lane is not None
    assert torch.equal(state.mass, mass)
    assert torch.equal(state.keepers, keepers)


def test_soft_weights_and_sparse_uploads_of_many_classes_are_exact():
    n_rows = 400
    for uploads in (
        [_upload(n_rows, 0.3, WIDE, seed=seed, soft=True) for seed in range(4)],
        [_upload(n_rows, 0.03, WIDE, seed=seed) for seed in range(4)],
    ):
        state = _folded(uploads, n_rows)
        assert state.lane is None
        assert torch.equal(state.scores, _loop(uploads, n_rows, WIDE)[0])


@pytest.mark.parametrize("n_classes", [4, WIDE])
def test_one_upload_gives_the_same_bits_folded_and_as_a_part(n_classes):
    for keep in (0.3, 1.0):
        upload = _upload(50, keep, n_classes, seed=1)
        assert _equal(_folded([upload], 50), weighted_sums(upload, n_rows=50))


@pytest.mark.parametrize("name", aggregators.names())
@pytest.mark.parametrize("wire", Wire)
def test_every_aggregator_reads_scores_as_they_came(name, wire):
    aggregator = aggregators.get(name)()
    if lacks_noise(aggregator):
        aggregator = replace(aggregator, noise_multiplier=0.5)
    uploads = [_upload(30, 0.6, 6, seed=seed) for seed in range(5)]
    uploads = [
        as_sent(replace(u, scores=u.scores.softmax(dim=1), space=Space.PROBS), wire)
        for u in uploads
    ]
    widened = [replace(u, scores=u.scores.float(), wire=Wire.FLOAT32) for u in uploads]
    found, wanted = (
        aggregator.aggregate(some, n_rows=30, rng=torch.Generator().manual_seed(0))
        for some in (uploads, widened)
    )
    assert found.scores.dtype == torch.float32
    assert torch.equal(found.rows, wanted.rows)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_classes", [4, WIDE])
def test_a_mean_is_what_folding_in_order_makes(n_classes):
    uploads = [_upload(20, 0.5, n_classes, seed=seed) for seed in range(LANE + 9)]
    mean, rng = Mean(), torch.Generator()
    state = None
    for upload in uploads:
        state = mean.accumulate(state, upload, n_rows=20)
    one_by_one, at_once = mean.finish(state, rng=rng), mean.aggregate(uploads, n_rows=20, rng=rng)
    assert torch.equal(one_by_one.scores, at_once.scores)
    again = mean.finish(state, rng=rng)  # nothing is counted twice
    assert torch.equal(again.scores, at_once.scores)
    assert torch.equal(again.keepers, at_once.keepers)


@pytest.mark.parametrize("name", aggregators.names())
def test_accumulating_agrees_with_parts_that_are_merged(name):
    aggregator = aggregators.get(name)()
    uploads = [_upload(30, 0.5, 6, seed=seed, soft=True) for seed in range(5)]
    uploads = [
        replace(u, scores=u.scores.softmax(dim=1), space=Space.PROBS, temperature=2.0)
        for u in uploads
    ]
    before = [u.scores.clone() for u in uploads]
    state = None
    merged = aggregator.partial(uploads[0], n_rows=30)
    for i, upload in enumerate(uploads):
        state = aggregator.accumulate(state, upload, n_rows=30)
        if i:
            merged = aggregator.merge(merged, aggregator.partial(upload, n_rows=30))
    if isinstance(merged, Sums):
        assert _equal(settled(state), merged)
    for upload, scores in zip(uploads, before, strict=True):
        assert torch.equal(upload.scores, scores)


def test_two_states_with_full_lanes_merge_to_the_sum_of_both():
    uploads = [_upload(20, 0.8, WIDE, seed=seed) for seed in range(6)]
    halves = [None, None]
    for i, upload in enumerate(uploads):
        halves[i // 3] = fold(halves[i // 3], upload, n_rows=20)
    both = Mean().merge(*halves)
    sums, mass, keepers = _loop(uploads, 20, WIDE)
    torch.testing.assert_close(both.scores, sums, rtol=0, atol=1e-5)
    assert torch.equal(both.mass, mass)
    assert torch.equal(both.keepers, keepers)


@pytest.mark.parametrize("told", [False, True])
def test_sums_cross_as_tensors_to_the_bit(told):
    uploads = [_upload(20, 0.5, WIDE, seed=seed) for seed in range(3)]
    if told:
        uploads = [replace(u, row_temperatures=torch.rand(len(u)) + 1) for u in uploads]
    state = None
    for upload in uploads:
        state = fold(state, upload, n_rows=20)
    tensors, facts = sums_to_tensors(state)
    assert all(isinstance(fact, (str, float)) for fact in facts.values())
    back = sums_from_tensors({name: t.clone() for name, t in tensors.items()}, facts)
    assert _equal(back, settled(state))
    assert (back.space, back.temperature) == (Space.LOGITS, 1.0)
    assert (back.row_temperatures is None) == (not told)
    if told:
        assert torch.equal(back.row_temperatures, state.row_temperatures)


@pytest.mark.parametrize("n", [3, LANE + 3])
@pytest.mark.parametrize("past", [False, True])
def test_a_mean_out_of_the_lane_has_the_bits_of_settled_sums(n, past):
    uploads = [_upload(40, 0.5, WIDE, seed=seed) for seed in range(n)]
    if past:
        uploads.insert(1, _upload(40, 0.5, WIDE, seed=n, soft=True))
    state = None
    for upload in uploads:
        state = fold(state, upload, n_rows=40)
    found = Mean().finish(state, rng=torch.Generator())
    sums = settled(state)
    rows = torch.nonzero(sums.keepers > 0).flatten()
    assert torch.equal(found.rows, rows)
    assert torch.equal(found.keepers, sums.keepers[rows])
    assert torch.equal(found.scores, (sums.scores[rows] / sums.mass[rows, None]).float())


def test_memory_does_not_grow_with_the_uploads():
    state, seen = None, set()
    for seed in range(2 * LANE):
        state = fold(state, _upload(100, 0.5, WIDE, seed=seed), n_rows=100)
        seen.add((state.scores.data_ptr(), state.lane.scores.data_ptr()))
    assert len(seen) == 2  # before and after the first lane is emptied
    assert state.scores.shape == state.lane.scores.shape
