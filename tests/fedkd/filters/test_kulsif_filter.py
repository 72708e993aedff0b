"""KuLSIF against its own linear system and against a ratio known in closed form."""

import dataclasses

import numpy as np
import pytest
import torch

from fedkd.filters.kulsif import KuLSIF, density_ratio, solve_kulsif


def test_alpha_satisfies_its_linear_system(seeded):
    auxiliary = torch.randn(20, 3, generator=seeded(0), dtype=torch.float64)
    known = torch.randn(30, 3, generator=seeded(1), dtype=torch.float64)
    penalty = 0.2
    alpha = solve_kulsif(auxiliary, known, width=torch.tensor(1.5), regularization=penalty).numpy()

    def kernel(left, right):
        squares = ((left[:, None] - right[None]) ** 2).sum(axis=2)
        return np.exp(-squares / (2 * 1.5**2))

    x, y = auxiliary.numpy(), known.numpy()
    left_side = (kernel(x, x) / 20 + penalty * np.eye(20)) @ alpha
    right_side = -kernel(x, y) @ np.ones(30) / (20 * 30 * penalty)
    np.testing.assert_allclose(left_side, right_side, rtol=1e-10)


def test_the_ratio_of_two_gaussians_is_recovered(seeded):
    # N(0, 1) over N(0, 2), known in closed form; 2,000 draws of each. Four times fewer
    # draws double the error (.117 to .056), as a consistent estimate should.
    auxiliary = 2 * torch.randn(2000, 1, generator=seeded(0), dtype=torch.float64)
    known = torch.randn(2000, 1, generator=seeded(1), dtype=torch.float64)
    width = torch.tensor(0.7, dtype=torch.float64)
    state = {
        "auxiliary": auxiliary,
        "known": known,
        "width": width,
        "regularization": torch.tensor(0.01, dtype=torch.float64),
        "alpha": solve_kulsif(auxiliary, known, width=width, regularization=0.01),
    }
    grid = torch.linspace(-4, 4, 81, dtype=torch.float64)
    truth = 2 * torch.exp(-(grid.square()) / 2 + grid.square() / 8)
    estimate = density_ratio(grid[:, None], state)
    correlation = float(torch.corrcoef(torch.stack([truth, estimate]))[0, 1])
    assert correlation > 0.97
    assert float((estimate - truth).abs().mean()) < 0.1


@pytest.mark.parametrize("quantile", [0.25, 0.5])
def test_fresh_rows_of_the_same_distribution_are_kept_above_the_quantile(
    one_cloud, seeded, quantile
):
    # 500 calibration and 2,000 fresh rows: see test_kmeans_filter.py; a false alarm in 3,000.
    # With a kernel this narrow, a threshold from the known rows themselves would keep nothing.
    chosen = KuLSIF(quantile=quantile, width=0.5, max_known=4500)
    kept = chosen.weights(chosen.fit(one_cloud, rng=seeded(5)), one_cloud)
    assert abs(float(kept.mean()) - (1 - quantile)) < 0.09


def test_only_the_own_cloud_is_kept_and_ownership_is_no_excuse(one_class_split, seeded):
    for view in one_class_split:
        stranger = dataclasses.replace(view, own=~view.own)
        kept = KuLSIF().weights(KuLSIF().fit(view, rng=seeded(0)), stranger).bool()
        assert not kept[~view.own].any()
        assert kept[view.own].float().mean() > 0.4


def test_auxiliary_rows_fill_the_box_of_the_proxy_features(one_class_split, seeded):
    view = one_class_split[0]
    state = KuLSIF(n_auxiliary=2000).fit(view, rng=seeded(0))
    low, high = view.proxy.double().aminmax(dim=0)
    span = high - low
    torch.testing.assert_close(state["auxiliary"].mean(dim=0), (low + high) / 2, rtol=0, atol=1.0)
    assert ((state["auxiliary"] >= low) & (state["auxiliary"] <= high)).all()
    assert (state["auxiliary"].amax(dim=0) - state["auxiliary"].amin(dim=0) > 0.98 * span).all()


def test_width_and_regularization_default_to_the_median_and_the_root(one_class_split, seeded):
    view = one_class_split[0]
    state = KuLSIF(n_auxiliary=100).fit(view, rng=seeded(0))
    distances = torch.cdist(state["known"], state["known"])
    upper = distances[torch.triu(torch.ones_like(distances), diagonal=1).bool()]
    torch.testing.assert_close(state["width"], upper.median(), rtol=1e-6, atol=0)
    assert float(state["regularization"]) == 0.1
    assert float(KuLSIF(width=3.0).fit(view, rng=seeded(0))["width"]) == 3.0


def test_known_rows_are_capped_and_drawn_by_the_rng(one_cloud, seeded):
    first, again, other = (KuLSIF().fit(one_cloud, rng=seeded(seed)) for seed in (1, 1, 2))
    assert first["known"].shape == (270, 10)
    assert torch.equal(first["known"], again["known"])
    assert not torch.equal(first["known"], other["known"])


def test_a_client_with_hardly_any_rows_keeps_nothing(tiny, seeded):
    assert not KuLSIF().weights(KuLSIF().fit(tiny, rng=seeded(0)), tiny).any()
