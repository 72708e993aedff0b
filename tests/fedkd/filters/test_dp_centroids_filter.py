"""What a private example can change about noisy centroids, and what is computed from them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import ConfigError
from fedkd.filters.base import ClientView
from fedkd.filters.dp_centroids import SENSITIVITY, DPCentroids, class_table, shortened
from fedkd.privacy.events import Gaussian


def _view(n: int, *, seed: int = 0, scale: float = 1.0) -> ClientView:
    rng = torch.Generator().manual_seed(seed)
    return ClientView(
        private=scale * torch.randn(n, 6, generator=rng),
        contributed=torch.zeros(n, dtype=torch.bool),
        proxy=torch.randn(50, 6, generator=rng),
        own=torch.zeros(50, dtype=torch.bool),
        labels=torch.randint(0, 4, (n,), generator=rng),
        n_classes=5,
    )


def _without(view: ClientView, row: int) -> ClientView:
    rest = torch.arange(len(view.private)) != row
    return replace(
        view,
        private=view.private[rest],
        contributed=view.contributed[rest],
        labels=view.labels[rest],
    )


@given(
    n=st.integers(1, 30),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-3, 1.0, 1e6, 1e30]),
    data=st.data(),
)
def test_one_example_changes_one_row_of_the_table_by_root_two_at_most(n, seed, scale, data):
    view = _view(n, seed=seed, scale=scale)
    clip, row = torch.tensor(1.5), data.draw(st.integers(0, n - 1))
    fewer = _without(view, row)
    change = class_table(view, clip=clip, n_classes=5) - class_table(fewer, clip=clip, n_classes=5)
    assert change.norm() <= SENSITIVITY * (1 + 1e-6)
    assert set(change.abs().sum(dim=1).nonzero().flatten().tolist()) == {int(view.labels[row])}
    if scale == 1e6:  # far beyond the clip norm: the bound is reached
        assert change.norm() == pytest.approx(SENSITIVITY, rel=1e-5)


def test_what_is_not_finite_cannot_escape_the_bound():
    rows = torch.tensor([[torch.nan, 1.0], [torch.inf, -torch.inf], [3e38, 3e38]])
    assert bool((shortened(rows, clip=torch.tensor(2.0)).norm(dim=1) <= 1).all())


def test_the_choice_of_rows_is_computed_from_the_release_alone():
    filter_, one, other = DPCentroids(noise_multiplier=0.1), _view(200), _view(90, seed=9)
    state = filter_.fit(one, rng=torch.Generator().manual_seed(0))
    assert set(state) == {"centroids", "clip"}
    foreign = replace(one, private=other.private, labels=other.labels)
    assert torch.equal(filter_.weights(state, one), filter_.weights(state, foreign))


@pytest.mark.parametrize(("keep", "rows"), [(0.01, 1), (0.25, 13), (1.0, 50)])
@pytest.mark.parametrize("n", [100, 2000])
def test_how_many_rows_are_kept_is_public(keep, rows, n):
    filter_, view = DPCentroids(noise_multiplier=0.1, keep=keep), _view(n)
    weights = filter_.weights(filter_.fit(view, rng=torch.Generator().manual_seed(0)), view)
    assert int(weights.sum()) == rows


def test_with_little_noise_the_rows_of_the_classes_held_are_kept(one_class_split, seeded):
    right = 0
    for view in one_class_split:
        known = replace(view, n_classes=6)
        filter_ = DPCentroids(noise_multiplier=3.0, keep=1 / 6)
        kept = filter_.weights(filter_.fit(known, rng=seeded(0)), known) > 0
        assert int(kept.sum()) == 24
        right += int((view.proxy_labels[kept] == view.labels[0]).sum())
    assert right > 0.8 * 6 * 24


def test_where_no_class_stands_out_none_is_kept(seeded):
    view = _view(20)
    assert (
        not DPCentroids(noise_multiplier=1000.0)
        .weights(DPCentroids(noise_multiplier=1000.0).fit(view, rng=seeded(0)), view)
        .any()
    )
    nobody = _without(_view(1), 0)
    assert DPCentroids().fit(nobody, rng=seeded(0))["centroids"].shape[1] == 6


def test_its_event_is_its_noise_and_the_classes_must_be_public(seeded):
    assert DPCentroids(noise_multiplier=7.0).event() == Gaussian(7.0)
    assert pytest.approx(math.sqrt(2)) == SENSITIVITY
    with pytest.raises(ConfigError, match="n_classes"):
        DPCentroids().fit(replace(_view(9), n_classes=None), rng=seeded(0))
