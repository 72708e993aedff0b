"""Known answers of the KMeans filter."""

import dataclasses

import numpy as np
import pytest
import torch

from fedkd.filters.kmeans import KMeansFilter, Score


@pytest.mark.parametrize("score", Score)
def test_on_a_one_class_split_a_vanishing_quantile_keeps_exactly_what_is_owned(
    one_class_split, seeded, score
):
    chosen = KMeansFilter(quantile=1e-9, score=score)
    for view in one_class_split:
        weights = chosen.weights(chosen.fit(view, rng=seeded(0)), view)
        assert torch.equal(weights, view.own.float())


@pytest.mark.parametrize("score", Score)
def test_without_the_own_rule_rows_of_the_own_cloud_are_kept_and_no_others(
    one_class_split, seeded, score
):
    chosen = KMeansFilter(quantile=1.0, own_rule=False, score=score)
    for view in one_class_split:
        kept = chosen.weights(chosen.fit(view, rng=seeded(0)), view).bool()
        assert not kept[~view.own].any()
        assert kept[view.own].float().mean() > 0.5


@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.9])
def test_fresh_rows_of_the_same_distribution_are_kept_at_the_quantile(one_cloud, seeded, quantile):
    # 500 calibration and 2,000 fresh rows: the keep rate has a standard deviation of at most
    # sqrt(.25 / 500 + .25 / 2000) = .025; .09 is 3.6 of them, a false alarm in 3,000 seeds.
    # With 20 rows behind a centroid, a threshold from the fitted rows themselves would miss it.
    chosen = KMeansFilter(clusters_per_class=250, quantile=quantile, own_rule=False)
    kept = chosen.weights(chosen.fit(one_cloud, rng=seeded(5)), one_cloud)
    assert abs(float(kept.mean()) - quantile) < 0.09


def test_the_number_of_centroids_follows_the_classes_held_and_the_rows(one_class_split, seeded):
    def n_centroids(view, **fields):
        return len(KMeansFilter(**fields).fit(view, rng=seeded(0))["centroids"])

    view = one_class_split[0]  # 120 rows, 10 of them held out: at most 110 // 20 centroids
    assert n_centroids(view) == 5
    assert n_centroids(view, clusters_per_class=1) == 2
    two = dataclasses.replace(view, labels=torch.arange(120) % 2)
    assert n_centroids(two, clusters_per_class=2) == 4


def test_a_client_with_hardly_any_rows_keeps_its_own_contributions(tiny, seeded):
    for chosen in (KMeansFilter(), KMeansFilter(score=Score.RATIO)):
        weights = chosen.weights(chosen.fit(tiny, rng=seeded(0)), tiny)
        assert torch.equal(weights, tiny.own.float())


def test_the_state_depends_on_the_rng_alone(one_class_split, seeded):
    view, chosen = one_class_split[2], KMeansFilter(score=Score.RATIO)
    states = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        states.append(chosen.fit(view, rng=seeded(7)))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = chosen.fit(view, rng=seeded(8))
    assert not torch.equal(states[0]["centroids"], other["centroids"])
