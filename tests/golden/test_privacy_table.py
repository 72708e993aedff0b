"""Epsilons from three independent accountants: privacy loss distributions, RDP and Opacus' PRV.

The table was computed with dp-accounting for delta 1e-5 and Poisson sampling; columns are the
noise multipliers 1 and 2, each as PLD / RDP.
"""

from __future__ import annotations

import math

import pytest
from dp_accounting import get_epsilon_gaussian
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant

from fedkd.privacy.accounting import calibrate, epsilon
from fedkd.privacy.events import Gaussian, Laplace, Nothing, SampledGaussian, Uncounted

DELTA = 1e-5
TABLE = [
    # records, batch, epochs, (noise multiplier 1: PLD, RDP), (noise multiplier 2: PLD, RDP)
    (500, 50, 20, (9.97, 11.06), (3.36, 3.68)),
    (500, 50, 100, (25.2, 27.2), (8.28, 8.95)),
    (2000, 64, 20, (5.15, 5.71), (1.74, 1.90)),
    (2000, 64, 100, (12.5, 13.6), (4.21, 4.57)),
    (5000, 128, 100, (10.9, 11.8), (3.70, 4.01)),
]
CELLS = [
    (batch / records, round(epochs * records / batch), noise, *pair)
    for records, batch, epochs, one, two in TABLE
    for noise, pair in ((1.0, one), (2.0, two))
]
every_cell = pytest.mark.parametrize(("probability", "steps", "noise", "pld", "rdp"), CELLS)


def _steps(probability, steps, noise, *, rounds: int = 1):
    return [SampledGaussian(probability, noise, steps // rounds)] * rounds


@every_cell
def test_the_reference_table_comes_out_within_two_percent(probability, steps, noise, pld, rdp):
    found = epsilon(_steps(probability, steps, noise), delta=DELTA)
    assert found == pytest.approx(pld, rel=0.02)
    assert found < rdp


@every_cell
def test_opacus_prv_agrees(probability, steps, noise, pld, rdp):
    accountant = PRVAccountant()
    accountant.history = [(noise, probability, steps)]
    found = epsilon(_steps(probability, steps, noise), delta=DELTA)
    assert accountant.get_epsilon(DELTA) == pytest.approx(found, abs=0.05, rel=0.01)


def test_twenty_rounds_cost_what_their_steps_cost_together():
    together = epsilon(_steps(0.1, 200, 1.0), delta=DELTA)
    assert epsilon(_steps(0.1, 200, 1.0, rounds=20), delta=DELTA) == pytest.approx(together)


def test_gaussians_are_composed_exactly():
    events = [Gaussian(3.0)] * 3 + [Gaussian(5.0, 2)]
    sigma = 1 / math.sqrt(3 / 9 + 2 / 25)
    assert epsilon(events, delta=DELTA) == get_epsilon_gaussian(sigma, DELTA)


def test_a_useless_noise_has_a_finite_epsilon_of_millions():
    one_round = Gaussian(0.1 / math.sqrt(2 * 1000))
    assert 1e6 < epsilon([one_round] * 20, delta=DELTA) < 1e7


def test_laplace_costs_no_more_than_pure_composition_and_no_more_than_its_own_pld():
    event = Laplace(5.0, 40)
    accountant = PLDAccountant()
    accountant.compose(event.dp_event())
    found = epsilon([event], delta=DELTA)
    assert found == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-3)
    assert found < 40 / 5


def test_nothing_costs_nothing_and_uncounted_everything():
    assert epsilon([], delta=DELTA) == epsilon([Nothing()], delta=DELTA) == 0
    assert epsilon([Gaussian(100.0), Uncounted()], delta=DELTA) == math.inf


@pytest.mark.parametrize("target", [0.5, 2.0, 8.0])
def test_calibrated_noise_keeps_the_target_and_wastes_little(target):
    def spend(noise):
        return _steps(0.1, 200, noise)

    noise = calibrate(spend, target_epsilon=target, delta=DELTA)
    assert epsilon(spend(noise), delta=DELTA) <= target
    assert epsilon(spend(noise / 1.01), delta=DELTA) > target
