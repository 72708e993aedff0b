"""The noise that leaves has the law and the scale that its price was worked out from.

Kolmogorov-Smirnov tests of 100,000 draws under fixed seeds. A right law is refused by a test with
probability ``FALSE_ALARM``; that a scale 10 % off is refused is tested beside each.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fedkd.protectors.base import Context
from fedkd.protectors.gaussian import GaussianNoise
from fedkd.protectors.noise import Noise
from fedkd.protectors.swing import NoiseLaw, Swing
from fedkd.scorers.detector import Detector
from fedkd.types import Knowledge, ProxySet, ProxySource, Space

SIZE, FALSE_ALARM = 100_000, 1e-3
LAWS = {Noise.GAUSSIAN: stats.norm.cdf, Noise.LAPLACE: stats.laplace.cdf}


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _fits(draws: torch.Tensor, cdf) -> bool:
    assert draws.numel() == SIZE
    return stats.kstest(draws.double().flatten().numpy(), cdf).pvalue >= FALSE_ALARM


def _check(draws: torch.Tensor, cdf) -> None:
    """Accept the draws, and refuse them when they are 10 % too wide or too narrow."""
    assert _fits(draws, cdf)
    assert not _fits(1.1 * draws, cdf)
    assert not _fits(draws / 1.1, cdf)


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_law_has_scale_one(noise, seed):
    draws = noise.like(torch.empty(SIZE // 10, 10), rng=_rng(seed))
    _check(draws, LAWS[noise])
    other = next(law for law in Noise if law is not noise)
    assert not _fits(draws, LAWS[other])


@pytest.mark.parametrize("noise", Noise)
def test_draws_of_a_row_and_of_two_streams_do_not_go_together(noise):
    one, other = (noise.like(torch.empty(SIZE, 2), rng=_rng(seed)) for seed in (0, 1))
    for left, right in ((one[:, 0], one[:, 1]), (one[1:, 0], one[:-1, 0]), (one, other)):
        size = left.numel()
        found = np.corrcoef(left.double().flatten(), right.double().flatten())[0, 1]
        assert abs(found) < stats.norm.isf(FALSE_ALARM / 2) / math.sqrt(size)


def _upload(n_rows: int, n_classes: int) -> tuple[Knowledge, Context]:
    knowledge = Knowledge(
        rows=torch.arange(n_rows),
        scores=torch.zeros(n_rows, n_classes),
        weights=torch.ones(n_rows),
        space=Space.LOGITS,
    )
    proxy = ProxySet(
        inputs=torch.zeros(n_rows, 1),
        ids=torch.arange(n_rows),
        owner=None,
        source=ProxySource.EXTERNAL,
    )
    return knowledge, Context(proxy=proxy, consensus=None)


def _half_difference_of_laplaces(x: np.ndarray) -> np.ndarray:
    """Return P((L1 - L2) / 2 <= x); the density is (1 + 2|x|) exp(-2|x|) / 2."""
    tail = (2 + np.abs(2 * x)) * np.exp(-np.abs(2 * x)) / 4
    return np.where(x < 0, tail, 1 - tail)


def _half_difference_of_gaussians(x: np.ndarray) -> np.ndarray:
    return stats.norm.cdf(x, scale=math.sqrt(0.5))


PAIRS = {
    Noise.GAUSSIAN: _half_difference_of_gaussians,
    Noise.LAPLACE: _half_difference_of_laplaces,
}


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize(
    ("law", "scale"),
    [
        (NoiseLaw.CONSTANT, 0.01),
        (NoiseLaw.GROWING, 0.01 * (1 + 3 * 0.5)),
        (NoiseLaw.PROPORTIONAL, 0.01 * 0.5),
    ],
)
def test_what_swing_sends_carries_the_noise_of_its_law(noise, law, scale):
    """Two equal classes, likelihood 1/2: inside the simplex the projection halves e1 - e2."""
    knowledge, context = _upload(SIZE, 2)
    swing = Swing(
        scorer=Detector(classes=(0,)), noise=noise, noise_scale=0.01, noise_law=law, growth=3.0
    )
    sent = swing.protect(knowledge, context, rng=_rng())
    _check((sent.scores[:, 0].double() - 0.5) / scale, PAIRS[noise])


def test_what_the_gaussian_protector_sends_carries_its_multiple_of_the_sensitivity():
    knowledge, context = _upload(2000, 50)
    protector = GaussianNoise(clip_norm=1.5, noise_multiplier=0.7)
    sent = protector.protect(knowledge, context, rng=_rng())
    sensitivity = 2 * 1.5 * math.sqrt(2000)
    _check(sent.scores / (0.7 * sensitivity), stats.norm.cdf)


def test_the_sensitivity_is_the_proxy_sets_even_where_a_client_keeps_few_rows():
    knowledge, context = _upload(8000, 50)
    few = replace(
        knowledge,
        rows=torch.arange(2000),
        scores=knowledge.scores[:2000],
        weights=knowledge.weights[:2000],
    )
    sent = GaussianNoise(clip_norm=1.0, noise_multiplier=0.7).protect(few, context, rng=_rng(3))
    _check(sent.scores / (0.7 * 2 * math.sqrt(8000)), stats.norm.cdf)
