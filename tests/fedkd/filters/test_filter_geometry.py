"""Held-out rows, centroids and distances."""

import dataclasses

import numpy as np
import torch

from fedkd.filters.geometry import calibration_split, centroids_of, nearest


def test_calibration_rows_are_never_contributed_and_never_fitted(one_class_split, seeded):
    view = one_class_split[0]
    fitted, held_out = calibration_split(view, fraction=0.25, rng=seeded(0))
    shared = {tuple(row) for row in view.private[view.contributed].tolist()}
    held = {tuple(row) for row in held_out.tolist()}
    assert len(held) == 24  # a quarter of 96 rows that were not contributed
    assert not held & shared
    assert shared < {tuple(row) for row in fitted.tolist()}
    assert len(fitted) + len(held_out) == len(view.private)


def test_at_least_one_row_calibrates_and_two_are_fitted(one_class_split, seeded):
    view = one_class_split[0]
    few = dataclasses.replace(
        view, private=view.private[-6:], contributed=view.contributed[-6:], labels=view.labels[-6:]
    )
    sizes = {
        fraction: tuple(map(len, calibration_split(few, fraction=fraction, rng=seeded(0))))
        for fraction in (0.01, 0.5, 0.99)
    }
    assert sizes == {0.01: (5, 1), 0.5: (3, 3), 0.99: (2, 4)}


def test_no_calibration_without_rows_to_spare(one_class_split, tiny, seeded):
    assert calibration_split(tiny, fraction=0.1, rng=seeded(0)) is None
    view = one_class_split[0]
    gave_all = dataclasses.replace(view, contributed=torch.ones_like(view.contributed))
    assert calibration_split(gave_all, fraction=0.1, rng=seeded(0)) is None


def test_nearest_is_the_smallest_euclidean_distance(seeded):
    points, centers = (
        torch.randn(50, 7, generator=seeded(0)),
        torch.randn(4, 7, generator=seeded(1)),
    )
    expected = (points[:, None] - centers[None]).square().sum(dim=2).sqrt().min(dim=1).values
    torch.testing.assert_close(nearest(points, centers), expected, rtol=1e-5, atol=1e-5)
    assert nearest(points, centers[:0]).isinf().all()


def test_centroids_depend_on_the_rng_and_on_no_global_seed(seeded):
    rows = torch.randn(300, 5, generator=seeded(0))
    results = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        results.append(centroids_of(rows, 8, rng=seeded(3)))
    assert torch.equal(*results)
    assert not torch.equal(results[0], centroids_of(rows, 8, rng=seeded(4)))


def test_there_are_no_more_centroids_than_distinct_rows(seeded):
    rows = torch.eye(3).repeat(10, 1)
    assert centroids_of(rows, 8, rng=seeded(0)).shape == (3, 3)
