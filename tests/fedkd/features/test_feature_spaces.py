"""Feature spaces keep the geometry and are fitted on the proxy set alone."""

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.features.pca import PCA
from fedkd.features.raw import Raw


def _images(n: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 4, 5), generator=rng, dtype=torch.uint8)


@pytest.mark.parametrize("space", [Raw(), PCA(components=20)])
def test_all_distances_are_divided_by_one_scale(space):
    proxy, fresh = _images(60), _images(7, seed=1)
    rows = proxy.flatten(1).float() / 255
    scale = (rows - rows.mean(dim=0)).square().mean().sqrt()
    features = space.fit(proxy)(fresh)
    expected = torch.pdist(fresh.flatten(1).float() / 255) / scale
    assert features.dtype == torch.float32
    torch.testing.assert_close(torch.pdist(features), expected, rtol=1e-4, atol=1e-4)


def test_raw_features_of_the_proxy_set_are_centered_with_unit_mean_square():
    features = Raw().fit(_images(60))(_images(60))
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(20), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.square().mean(), torch.tensor(1.0))


def test_pca_keeps_the_directions_of_largest_variance_in_order_and_unwhitened():
    rng = torch.Generator().manual_seed(0)
    deviations = torch.tensor([1.0, 5.0, 0.1, 3.0])
    proxy = torch.randn(4000, 4, generator=rng) * deviations
    features = PCA(components=2).fit(proxy)(proxy)
    scale = (deviations.square().mean()).sqrt()
    # Two kept columns: deviations 5 and 3, over the one scale; 4,000 rows give 1.1 % error.
    torch.testing.assert_close(
        features.std(dim=0), torch.tensor([5.0, 3.0]) / scale, rtol=0.05, atol=0
    )
    assert float(torch.corrcoef(torch.stack([features[:, 0], proxy[:, 1]]))[0, 1].abs()) > 0.99


@pytest.mark.parametrize("shape", [(900, 700), (150, 700), (700, 150), (80, 60)])
def test_pca_keeps_as_much_variance_as_any_projection_could(shape):
    # Reference: the singular value decomposition; deviations fall like those of images.
    rng = np.random.default_rng(0)
    deviations = np.arange(1, shape[1] + 1) ** -0.8
    mixed = np.linalg.qr(rng.standard_normal((shape[1], shape[1])))[0]
    rows = (rng.standard_normal(shape) * deviations) @ mixed
    proxy = torch.from_numpy(rows).float()
    features = PCA(components=30).fit(proxy)(proxy).double()
    centered = rows - rows.mean(axis=0)
    scale = np.sqrt(np.mean(centered**2))
    most = np.sum(np.linalg.svd(centered / scale, compute_uv=False)[:30] ** 2)
    assert float(features.square().sum()) == pytest.approx(most, rel=2e-4)
    between = features.T @ features
    off = between - torch.diag(between.diagonal())
    assert float(off.abs().max()) < 1e-4 * float(between.diagonal().max())


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (8, 8), (200, 20)])
def test_components_are_capped_by_rows_and_columns(n, expected):
    features = PCA().fit(_images(n))(_images(3, seed=1))
    assert features.shape == (3, expected)
    assert features.isfinite().all()


def test_pca_is_the_same_whatever_the_global_seed():
    proxy, results = torch.rand(600, 900, generator=torch.Generator().manual_seed(0)), []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        results.append(PCA(components=5).fit(proxy)(proxy[:9]))
    assert torch.equal(*results)


@pytest.mark.parametrize("space", [Raw(), PCA()])
def test_bytes_and_the_same_floats_give_the_same_features(space):
    proxy = _images(30)
    from_bytes, from_floats = space.fit(proxy)(proxy), space.fit(proxy / 255)(proxy / 255)
    torch.testing.assert_close(from_bytes, from_floats)


@pytest.mark.parametrize("space", [Raw(), PCA()])
def test_a_constant_proxy_set_is_legal_and_an_empty_one_is_not(space):
    constant = torch.full((6, 3), 7.0)
    assert space.fit(constant)(constant).isfinite().all()
    with pytest.raises(ConfigError, match=r"\(0, 3\)"):
        space.fit(torch.zeros(0, 3))
