"""Centroids that are found side by side are those that scikit-learn finds one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from fedkd.filters import geometry
from fedkd.filters.geometry import SMALL, Wanted, centroids_of, centroids_of_all
from fedkd.filters.kmeans import KMeansFilter, Score
from fedkd.filters.lloyd import Points, lloyd, lloyd_from, side_by_side


def _clouds(n: int, n_clouds: int, *, seed: int, d: int = 5) -> torch.Tensor:
    """Rows around corners that lie ten standard deviations and more apart."""
    rng = torch.Generator().manual_seed(seed)
    corners = 10 * torch.cat([torch.eye(d), -torch.eye(d)])[torch.randperm(2 * d, generator=rng)]
    rows = corners[torch.arange(n) % n_clouds] + torch.randn(n, d, generator=rng)
    return rows + 3


def _points(n: int, n_clusters: int, *, seed: int, n_clouds: int | None = None) -> Points:
    rows = _clouds(n, n_clouds or n_clusters, seed=seed)
    return Points(rows=rows, n_clusters=n_clusters, seed=seed)


def _reference(points: Points, **settings_) -> torch.Tensor:
    solver = KMeans(points.n_clusters, n_init=1, random_state=points.seed, **settings_)
    return torch.from_numpy(solver.fit(points.rows.numpy()).cluster_centers_)


SIZES = [(7, 2), (40, 3), (41, 5), (60, 1), (90, 8), (90, 3), (200, 10), (12, 10)]


def test_from_the_same_seed_they_are_scikit_learns_in_its_order():
    given_ = [_points(n, k, seed=s) for s, (n, k) in enumerate(SIZES * 3)]
    for points, centers in zip(given_, lloyd(given_), strict=True):
        assert centers.shape == (points.n_clusters, 5)
        assert centers.dtype == torch.float32
        torch.testing.assert_close(centers, _reference(points), rtol=0, atol=1e-5)


def test_from_the_same_start_they_are_scikit_learns():
    given_ = [_points(n, k, seed=s, n_clouds=4) for s, (n, k) in enumerate(SIZES) if n > 12]
    sets, mean = side_by_side(given_)
    starts = [points.rows[: points.n_clusters] for points in given_]
    padded = torch.nn.utils.rnn.pad_sequence([s.double() for s in starts], batch_first=True)
    found = lloyd_from(sets, padded - mean)
    for points, start, centers, shift in zip(given_, starts, found, mean, strict=True):
        ours = (centers[: points.n_clusters] + shift).float()
        reference = _reference(points, init=start.numpy())
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(2, 80), st.integers(1, 9)), min_size=1, max_size=8),
    seed=st.integers(0, 10_000),
)
def test_they_do_not_tell_with_which_others_they_were_found(sizes, seed):
    rng = torch.Generator().manual_seed(seed)
    given_ = [  # one broad cloud, where a digit more or less would change who belongs to whom
        Points(rows=torch.randn(n, 6, generator=rng), n_clusters=min(k, n), seed=seed + i)
        for i, (n, k) in enumerate(sizes)
    ]
    together = lloyd(given_)
    for points, centers in zip(given_, together, strict=True):
        (alone,) = lloyd([points])
        assert (alone is None) == (centers is None)
        if alone is not None:
            torch.testing.assert_close(centers, alone, rtol=0, atol=1e-6)
    for centers, again in zip(together, reversed(lloyd(given_[::-1])), strict=True):
        assert (again is None) == (centers is None)
        if again is not None:
            torch.testing.assert_close(centers, again, rtol=0, atol=1e-6)


def test_a_set_too_large_for_a_block_gets_one_of_its_own(monkeypatch):
    given_ = [_points(n, 3, seed=s) for s, n in enumerate((90, 20, 60, 30, 90))]
    together = lloyd(given_)
    monkeypatch.setattr("fedkd.filters.lloyd.BLOCK", 310)
    for ours, apart in zip(together, lloyd(given_), strict=True):
        torch.testing.assert_close(ours, apart, rtol=0, atol=1e-6)


def test_a_centroid_without_rows_is_said_and_the_others_are_found():
    given_ = [_points(30, 3, seed=0), _points(30, 3, seed=1)]
    sets, mean = side_by_side(given_)
    starts = torch.stack([points.rows[:3].double() for points in given_]) - mean
    starts[0, 2] = 1e6
    found = lloyd_from(sets, starts)
    assert found[0] is None
    assert found[1] is not None


def test_where_a_centroid_lost_its_rows_scikit_learn_takes_over(monkeypatch):
    monkeypatch.setattr(geometry, "lloyd", lambda sets: [None for _ in sets])
    rows = _clouds(60, 3, seed=2)
    seed = int(torch.randint(2**31 - 1, (1,), generator=torch.Generator().manual_seed(5)))
    found = centroids_of(rows, 3, rng=torch.Generator().manual_seed(5))
    assert torch.equal(found, _reference(Points(rows=rows, n_clusters=3, seed=seed)))


def test_its_own_size_decides_who_finds_the_centroids_of_a_set(monkeypatch):
    seen = []
    monkeypatch.setattr(
        geometry, "lloyd", lambda sets: seen.extend(len(s.rows) for s in sets) or lloyd(sets)
    )
    wanted = [
        Wanted(rows=torch.randn(n, 50), n_clusters=4, rng=torch.Generator().manual_seed(n))
        for n in (SMALL // 50, SMALL // 50 + 1, 30)
    ]
    found = centroids_of_all(wanted)
    assert seen == [SMALL // 50, 30]
    assert [len(centers) for centers in found] == [4, 4, 4]


def test_few_distinct_rows_and_numbers_that_are_not_finite():
    twice = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]])
    found = centroids_of(twice, 5, rng=torch.Generator())
    assert found.sort(dim=0).values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match="NaN"):
        centroids_of(twice * float("nan"), 2, rng=torch.Generator())


@pytest.mark.parametrize("score", Score)
def test_many_clients_are_fitted_as_each_would_be_alone(one_class_split, tiny, score):
    chosen = KMeansFilter(score=score)
    fewer = dataclasses.replace(
        one_class_split[0],
        private=one_class_split[0].private[:70],
        contributed=one_class_split[0].contributed[:70],
        labels=torch.arange(70) % 3,
    )
    views = [*one_class_split[:2], tiny, *one_class_split[2:], fewer]

    def rngs():
        return [torch.Generator().manual_seed(i) for i in range(len(views))]

    together = chosen.fit_many(views, rngs())
    for view, rng, state in zip(views, rngs(), together, strict=True):
        alone = chosen.fit(view, rng=rng)
        assert alone.keys() == state.keys()
        for name in alone:
            torch.testing.assert_close(state[name], alone[name], rtol=0, atol=1e-6)
        assert torch.equal(chosen.weights(state, view), chosen.weights(alone, view))
