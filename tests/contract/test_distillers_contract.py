"""What every distiller promises: a loss a row that is zero, and least, when the student agrees."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.distillers.base import distillers
from fedkd.errors import ConfigError
from fedkd.types import Space

every_distiller = pytest.mark.parametrize("name", distillers.names())
shapes = st.tuples(st.integers(1, 6), st.integers(2, 6), st.integers(0, 10_000))


def _logits(n: int, classes: int, seed: int) -> torch.Tensor:
    return 4 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def _teacher(distiller, logits: torch.Tensor) -> torch.Tensor:
    if distiller.space is Space.LOGITS:
        return logits
    return (logits / distiller.teacher_temperature).softmax(dim=1)


@every_distiller
@given(shape=shapes)
def test_there_is_one_loss_a_row_and_it_is_least_where_both_agree(name, shape):
    n, classes, seed = shape
    distiller, logits = distillers.get(name)(), _logits(n, classes, seed)
    teacher = _teacher(distiller, logits)
    agreed = distiller.loss(logits, teacher)
    assert agreed.shape == (n,)
    torch.testing.assert_close(agreed, torch.zeros(n), rtol=0, atol=1e-5)
    other = distiller.loss(_logits(n, classes, seed + 1), teacher)
    assert bool((other > agreed).all())


@every_distiller
@given(shape=shapes)
def test_temperatures_told_row_by_row_are_followed_or_refused(name, shape):
    n, classes, seed = shape
    distiller, student = distillers.get(name)(), _logits(n, classes, seed + 1)
    teacher = _teacher(distiller, _logits(n, classes, seed))
    own = torch.full((n,), distiller.teacher_temperature)
    if distiller.space is Space.LOGITS:
        with pytest.raises(ConfigError, match=f"{name!r} cannot follow"):
            distiller.loss_at(student, teacher, own)
        return
    plain = distiller.loss(student, teacher)
    torch.testing.assert_close(distiller.loss_at(student, teacher, own), plain)
    warmer = distiller.loss_at(student, teacher, own + torch.arange(n))
    torch.testing.assert_close(warmer[:1], plain[:1])
    assert not torch.allclose(warmer[1:], plain[1:]) or n == 1


@every_distiller
@given(shape=shapes)
def test_rows_do_not_mix(name, shape):
    n, classes, seed = shape
    distiller = distillers.get(name)()
    student, teacher = _logits(n, classes, seed + 1), _teacher(distiller, _logits(n, classes, seed))
    alone = torch.cat(
        [distiller.loss(s[None], t[None]) for s, t in zip(student, teacher, strict=True)]
    )
    torch.testing.assert_close(distiller.loss(student, teacher), alone)


@every_distiller
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_gradient_is_finite_even_for_a_teacher_without_doubt(name, scale):
    distiller = distillers.get(name)()
    student = (scale * torch.eye(4)[[1, 2, 3]]).requires_grad_()
    teacher = _teacher(distiller, scale * torch.eye(4)[:3])
    loss = distiller.loss(student, teacher)
    loss.sum().backward()
    assert bool(loss.isfinite().all())
    assert bool(student.grad.isfinite().all())
    assert bool((student.grad != 0).any())


@every_distiller
def test_a_small_step_against_the_gradient_helps(name):
    distiller = distillers.get(name)()
    student, teacher = _logits(8, 5, 0).requires_grad_(), _teacher(distiller, _logits(8, 5, 1))
    before = distiller.loss(student, teacher).sum()
    before.backward()
    after = distiller.loss(student.detach() - 0.01 * student.grad, teacher).sum()
    assert after.item() < before.item()


@every_distiller
@given(shape=shapes)
def test_slopes_are_the_gradient_of_the_weighed_losses(name, shape):
    n, classes, seed = shape
    distiller, student = distillers.get(name)(), _logits(n, classes, seed + 1).double()
    teacher = _teacher(distiller, _logits(n, classes, seed)).double()
    teacher[0, :-1] = 0  # a teacher may be without doubt
    weights = torch.rand(n, generator=torch.Generator().manual_seed(seed)).double()
    own = torch.arange(n) + 1.5
    told = [None] if distiller.space is Space.LOGITS else [None, own]
    for temperatures in told:
        leaf = student.clone().requires_grad_()
        if temperatures is None:
            losses = distiller.loss(leaf, teacher)
        else:
            losses = distiller.loss_at(leaf, teacher, temperatures)
        (expected,) = torch.autograd.grad((losses * weights).sum(), leaf)
        found = distiller.slopes(student, teacher, weights, temperatures)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        assert not found.requires_grad
