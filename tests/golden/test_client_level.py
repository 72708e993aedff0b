"""What client-level privacy leaves of an answer: two tables computed beforehand for delta 1e-5.

Per-answer noise is sqrt(2 answers) / mu, where a Gaussian mechanism of sensitivity mu and standard
deviation 1 has the wanted epsilon (analytic Gaussian mechanism, Balle & Wang 2018).
"""

from __future__ import annotations

import math

import pytest
from dp_accounting import get_sigma_gaussian
from scipy.stats import norm

from fedkd.privacy.votes import noise_per_sum, unanimous_error

DELTA = 1e-5
COLUMNS = [(4, 100), (8, 100), (4, 1000), (8, 1000)]
"""Epsilon and answers in the whole run."""
WRONG = {
    5: (84, 78, 88, 87),
    10: (76, 60, 86, 83),
    20: (56, 23, 82, 74),
    50: (6, 0, 65, 37),
    100: (0, 0, 31, 3),
    250: (0, 0, 0, 0),
}
"""Per cent of unanimous votes of so many clients that come out wrong, 10 classes."""
MEAN_NOISE = {
    10: ("1.5", "0.85", "4.8", "2.7"),
    100: ("0.15", "0.085", "0.48", "0.27"),
    1000: ("0.015", "0.008", "0.048", "0.027"),
}
"""Standard deviation of the noise on the mean of so many clients' probabilities, as printed."""


def _cells(table):
    return [
        (clients, *column, value)
        for clients, values in table.items()
        for column, value in zip(COLUMNS, values, strict=True)
    ]


def _noise(epsilon, answers) -> float:
    return noise_per_sum(get_sigma_gaussian(epsilon, DELTA), n_rows=answers)


@pytest.mark.parametrize(("epsilon", "mu"), [(1, 0.27), (4, 0.93), (8, 1.67), (16, 2.9), (32, 4.9)])
def test_epsilons_and_their_gaussian_parameters(epsilon, mu):
    assert 1 / get_sigma_gaussian(epsilon, DELTA) == pytest.approx(mu, rel=0.02)


@pytest.mark.parametrize(("clients", "epsilon", "answers", "wrong"), _cells(WRONG))
def test_a_unanimous_vote_comes_out_wrong_as_often_as_the_table_says(
    clients, epsilon, answers, wrong
):
    chance = unanimous_error(clients, noise_std=_noise(epsilon, answers), n_classes=10)
    assert 100 * chance == pytest.approx(wrong, abs=1)


@pytest.mark.parametrize(("clients", "epsilon", "answers", "std"), _cells(MEAN_NOISE))
def test_the_noise_on_a_mean_is_what_the_table_says(clients, epsilon, answers, std):
    half_a_digit = 0.5 * 10 ** -len(std.split(".")[1])
    assert _noise(epsilon, answers) / clients == pytest.approx(float(std), abs=half_a_digit)


@pytest.mark.parametrize("rounds", [1, 2, 10])
def test_how_answers_are_dealt_out_over_rounds_does_not_change_the_noise(rounds):
    whole_run = get_sigma_gaussian(8, DELTA)
    a_round = noise_per_sum(whole_run * math.sqrt(rounds), n_rows=1000 // rounds)
    assert a_round == pytest.approx(_noise(8, 1000), rel=1e-12)


# Closed forms of the error.


@pytest.mark.parametrize("ratio", [0.01, 0.5, 3.0, 12.0, 30.0, 100.0])
def test_two_classes_are_one_comparison_of_two_noises(ratio):
    chance = unanimous_error(10, noise_std=10 / ratio, n_classes=2)
    assert chance == pytest.approx(norm.sf(ratio / math.sqrt(2)), rel=1e-6, abs=1e-13)


@pytest.mark.parametrize("n_classes", [2, 3, 10, 1000])
def test_drowned_votes_are_a_fair_draw(n_classes):
    chance = unanimous_error(1, noise_std=1e9, n_classes=n_classes)
    assert chance == pytest.approx(1 - 1 / n_classes, abs=1e-6)


def test_no_noise_and_one_class_are_never_wrong():
    assert unanimous_error(3, noise_std=0.0, n_classes=10) == 0
    assert unanimous_error(3, noise_std=5.0, n_classes=1) == 0


def test_more_clients_help_and_more_noise_and_more_classes_hurt():
    base = unanimous_error(20, noise_std=10.0, n_classes=10)
    assert unanimous_error(21, noise_std=10.0, n_classes=10) < base
    assert unanimous_error(20, noise_std=11.0, n_classes=10) > base
    assert unanimous_error(20, noise_std=10.0, n_classes=11) > base
