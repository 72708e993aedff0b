"""What the protectors' noise costs, against closed forms, dp-accounting and the privacy note."""

from __future__ import annotations

import math

import dp_accounting
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from scipy.stats import norm

from fedkd.protectors.base import Context
from fedkd.protectors.gaussian import GaussianNoise
from fedkd.protectors.noise import Noise
from fedkd.protectors.swing import Swing
from fedkd.types import Knowledge, ProxySet, ProxySource, Space

DELTA = 1e-5


def _epsilon(event: dp_accounting.DpEvent) -> float:
    return PLDAccountant().compose(event).get_epsilon(DELTA)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 4.0, 8.0, 10.0, 20.0])
def test_one_release_of_the_gaussian_protector_costs_what_the_analytic_mechanism_says(epsilon):
    sigma = dp_accounting.get_sigma_gaussian(epsilon, DELTA)
    protector = GaussianNoise(clip_norm=3.0, noise_multiplier=sigma)
    for n_rows in (1, 1000):
        event = protector.event(n_rows=n_rows).dp_event()
        assert _epsilon(event) == pytest.approx(epsilon, rel=1e-3)
    assert dp_accounting.get_epsilon_gaussian(sigma, DELTA) == pytest.approx(epsilon, rel=1e-6)


def _true_delta(sigma: float, epsilon: float) -> float:
    """Return Phi(1 / 2s - e s) - exp(e) Phi(-1 / 2s - e s): Balle & Wang 2018, theorem 8."""
    middle, shift = epsilon * sigma, 1 / (2 * sigma)
    return float(norm.cdf(shift - middle) - math.exp(epsilon) * norm.cdf(-shift - middle))


@pytest.mark.parametrize(("epsilon", "times"), [(1.0, None), (10.0, 2.3), (20.0, 150.0)])
def test_the_classical_formula_breaks_its_promise_at_epsilon_10(epsilon, times):
    """sqrt(2 ln(1.25 / delta)) / epsilon holds up to 1; the note has 2.3 and 150 times delta."""
    classical = math.sqrt(2 * math.log(1.25 / DELTA)) / epsilon
    really = _epsilon(GaussianNoise(noise_multiplier=classical).event(n_rows=1).dp_event())
    if times is None:
        assert _true_delta(classical, epsilon) < DELTA
        assert really < epsilon
        return
    assert _true_delta(classical, epsilon) / DELTA == pytest.approx(times, rel=0.03)
    assert really > epsilon * 1.02
    analytic = dp_accounting.get_sigma_gaussian(epsilon, DELTA)
    assert _true_delta(analytic, epsilon) == pytest.approx(DELTA, rel=1e-3)
    assert analytic > classical


@pytest.mark.parametrize(
    ("epsilon", "n_rows", "clip_norms"),
    [(4, 100, 21.6), (8, 100, 12.0), (4, 1000, 68), (8, 1000, 38), (4, 5000, 153), (8, 5000, 85)],
)
def test_the_noise_a_useful_epsilon_takes_is_that_of_the_note(epsilon, n_rows, clip_norms):
    sigma = dp_accounting.get_sigma_gaussian(epsilon, DELTA)
    proxy = ProxySet(
        inputs=torch.zeros(n_rows, 1),
        ids=torch.arange(n_rows),
        owner=None,
        source=ProxySource.EXTERNAL,
    )
    upload = Knowledge(
        rows=torch.arange(100),
        scores=torch.zeros(100, 1000),
        weights=torch.ones(100),
        space=Space.LOGITS,
    )
    sent = GaussianNoise(clip_norm=0.5, noise_multiplier=sigma).protect(
        upload, Context(proxy=proxy, consensus=None), rng=torch.Generator().manual_seed(0)
    )
    assert float(sent.scores.double().std()) / 0.5 == pytest.approx(clip_norms, rel=0.02)


def test_a_round_of_useful_swing_noise_has_a_vacuous_epsilon():
    """1,000 rows at standard deviation .05: mu = sqrt(2000) / .05 = 894, epsilon near mu^2 / 2."""
    event = Swing(noise_scale=0.05).event(n_rows=1000)
    mu = 1 / event.noise_multiplier
    assert mu == pytest.approx(894.4, rel=1e-3)
    epsilon = dp_accounting.get_epsilon_gaussian(event.noise_multiplier, DELTA)
    assert 0.99 < epsilon / (mu**2 / 2) < 1.02


def test_one_row_of_laplace_swing_costs_two_over_its_scale():
    event = Swing(noise_scale=4.0, noise=Noise.LAPLACE).event(n_rows=1).dp_event()
    pure = PLDAccountant().compose(event).get_epsilon(1e-8)  # it has no delta of 0
    assert pure == pytest.approx(2 / 4.0, rel=1e-3)
