"""The projection is the nearest point of the simplex, whatever it starts from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.simplex import moved_mass, project


@st.composite
def _rows(draw):
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    n, classes = draw(st.integers(0, 5)), draw(st.integers(1, 30))
    return draw(st.sampled_from([1e-3, 0.1, 1.0, 1e4])) * torch.randn(n, classes, generator=rng)


def _by_bisection(row: torch.Tensor) -> torch.Tensor:
    """Look for the number that, taken from every class, leaves a total of one."""
    low, high = row.double().min() - 2, row.double().max()
    for _ in range(200):
        middle = (low + high) / 2
        enough = (row.double() - middle).clamp(min=0).sum() >= 1
        low, high = (middle, high) if enough else (low, middle)
    return (row.double() - low).clamp(min=0)


@given(rows=_rows())
def test_it_is_the_projection_and_keeps_the_order(rows):
    found = project(rows)
    assert found.shape == rows.shape
    assert found.dtype == rows.dtype
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(rows)), rtol=0, atol=1e-5)
    for row, point in zip(rows, found, strict=True):
        atol = 1e-5 + 1e-7 * float(row.abs().max())
        torch.testing.assert_close(point.double(), _by_bisection(row), rtol=0, atol=atol)
    order = rows.argsort(dim=1, descending=True)
    assert bool((found.gather(1, order).diff(dim=1) <= 0).all())


@given(rows=_rows(), seed=st.integers(0, 1000))
def test_no_other_probabilities_are_nearer(rows, seed):
    rng = torch.Generator().manual_seed(seed)
    others = torch.randn(rows.shape, generator=rng).mul(3).softmax(dim=1)
    found = (rows - project(rows)).double().norm(dim=1)
    assert bool((found <= (rows - others).double().norm(dim=1) * (1 + 1e-6) + 1e-6).all())


@given(rows=_rows())
def test_moved_mass_is_half_the_way_to_the_projection_within_the_plane(rows):
    rows = rows.double()
    shifted = rows + (1 - rows.sum(dim=1, keepdim=True)) / rows.shape[1]
    found, way = moved_mass(rows), (project(rows) - shifted).abs().sum(dim=1) / 2
    torch.testing.assert_close(found, way, rtol=1e-9, atol=1e-9)
    assert bool((found >= 0).all())


@pytest.mark.parametrize(
    ("row", "moved"),
    [([0.5, 0.5], 0.0), ([0.7, 0.7], 0.0), ([1.2, -0.2], 0.2), ([1.2, 0.4, -0.3], 0.4)],
)
def test_moved_mass_by_hand(row, moved):
    assert float(moved_mass(torch.tensor([row]))) == pytest.approx(moved)


@pytest.mark.parametrize(
    ("row", "nearest"),
    [
        ([0.5, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]),
        ([2.0, 0.0], [1.0, 0.0]),
        ([0.6, 0.6], [0.5, 0.5]),
        ([1.2, 0.4, -0.3], [0.9, 0.1, 0.0]),  # .3 is taken from each
        ([-5.0, -6.5, -5.5], [0.75, 0.0, 0.25]),
        ([7.0], [1.0]),
    ],
)
def test_by_hand(row, nearest):
    torch.testing.assert_close(project(torch.tensor([row])), torch.tensor([nearest]))
