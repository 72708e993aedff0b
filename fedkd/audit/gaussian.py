"""Bounds that hold if the mechanism is Gaussian-like: a parameter mu first, epsilon from it.

Nasr et al. 2023, https://arxiv.org/abs/2302.07956, for a threshold; Mahloujifar, Melis & Chaudhuri
2025, https://arxiv.org/abs/2410.22235, for one run. Tighter than the bounds for any mechanism, and
about a family of mechanisms only: print them as model-based.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, ndtr, ndtri

from fedkd.audit.bounds import (
    Assumption,
    EpsilonBound,
    Relation,
    Rule,
    count_at_least,
    scores_of,
)
from fedkd.audit.guesses import Guesses
from fedkd.audit.intervals import Floats, lower_limit, upper_limit

LARGEST_MU = 64.0
PER_PASS, PASSES = 64, 3
"""Each pass tries so many values of mu at once, within the gap the last one left."""
PRECISION = 1e-9
SLACK = 1e-9
"""Relative; more than the round-off of a recursion over 100,000 guesses."""


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the delta at which a Gaussian mechanism of parameter ``mu`` is epsilon-DP."""
    if mu <= 0:
        return 0.0
    below = float(ndtr(mu / 2 - epsilon / mu))
    return below - math.exp(min(0.0, epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))))


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """Return the epsilon of a Gaussian mechanism of parameter ``mu`` (sensitivity over noise).

    Dong, Roth & Su 2022, Gaussian Differential Privacy, corollary 2.13; ``delta`` must be above 0.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta:g}: a Gaussian mechanism needs one within (0, 1)")
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    most = mu * mu / 2 - mu * float(ndtri(delta)) + 1.0  # the first term alone is below delta
    low, high = 0.0, most
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, mu) > delta else (low, middle)
    return low


def threshold_bound_gaussian(
    members: ArrayLike,
    nonmembers: ArrayLike,
    *,
    threshold: float,
    delta: float = 1e-5,
    alpha: float = 0.05,
) -> EpsilonBound:
    """Return the bound of a fixed threshold: mu >= Phi^-1(TPR_L) - Phi^-1(FPR_U).

    Args:
        members: ``[n]`` scores, higher means a likelier member.
        nonmembers: ``[m]`` scores.
        threshold: fixed in advance.
        delta: at which epsilon is stated.
        alpha: chance of a wrong bound.
    """
    ins, outs = scores_of(members), scores_of(nonmembers)

    def certify(hits: int, alarms: int) -> float:
        low = lower_limit(hits, len(ins), alpha=alpha / 2)
        high = upper_limit(alarms, len(outs), alpha=alpha / 2)
        return max(0.0, float(ndtri(low) - ndtri(high))) if low > 0 and high < 1 else 0.0

    mu = certify(int(count_at_least(ins, threshold)), int(count_at_least(outs, threshold)))
    return EpsilonBound(
        epsilon=gaussian_epsilon(mu, delta=delta),
        ceiling=gaussian_epsilon(certify(len(ins), 0), delta=delta),
        delta=delta,
        confidence=1 - alpha,
        relation=Relation.ADD_OR_REMOVE,
        rule=Rule.FIXED,
        choice=threshold,
        assumptions=(Assumption.INDEPENDENT, Assumption.GAUSSIAN),
        n_canaries=len(ins) + len(outs),
        mu=mu,
    )


def one_run_bound_gaussian(
    guesses: Guesses, *, delta: float = 1e-5, alpha: float = 0.05
) -> EpsilonBound:
    """Return the one-run bound within the Gaussian family, for bits or secrets of any alphabet.

    Args:
        guesses: how many were right; how many to make was fixed in advance or chosen on another
            half of the canaries.
        delta: at which epsilon is stated.
        alpha: chance of a wrong bound.
    """
    mu = largest_rejected_mu(guesses, alpha=alpha)
    best = largest_rejected_mu(guesses.all_right(), alpha=alpha)
    return EpsilonBound(
        epsilon=gaussian_epsilon(mu, delta=delta),
        ceiling=gaussian_epsilon(best, delta=delta),
        delta=delta,
        confidence=1 - alpha,
        relation=guesses.relation,
        rule=guesses.rule,
        choice=guesses.made,
        assumptions=(guesses.assumption, Assumption.GAUSSIAN),
        n_canaries=guesses.n_canaries,
        mu=mu,
    )


@lru_cache(maxsize=256)
def largest_rejected_mu(guesses: Guesses, *, alpha: float = 0.05) -> float:
    """Return the largest mu (at most 64) under which so many right guesses are too unlikely.

    Within 64 / 63^3 of the exact value, and never above it.
    """
    low, high = 0.0, LARGEST_MU
    for _ in range(PASSES):
        grid = np.linspace(low, high, PER_PASS)
        rejected = np.flatnonzero(rejects(guesses, grid, alpha=alpha))
        if not len(rejected):
            return 0.0
        last = int(rejected[-1])
        low, high = float(grid[last]), float(grid[min(last + 1, PER_PASS - 1)])
    return low


def rejects(guesses: Guesses, mus: Floats, *, alpha: float) -> np.ndarray:
    """Return for each mu whether ``correct`` or more right guesses have probability below alpha.

    Backwards over i, the number of right guesses: ``right`` and ``wrong`` bound the expected
    number of right and wrong guesses, over canaries, in runs with i or more right. Flipping one
    canary's secret turns a right guess into a wrong one, which the trade-off curve f prices: a run
    with i + 1 right had to be one with i right that often.
    """
    m, made, correct = guesses.n_canaries, guesses.made, guesses.correct
    right = np.full_like(mus, alpha * correct / m)
    wrong = np.full_like(mus, alpha * (made - correct) / m)
    for i in range(correct - 1, -1, -1):
        flipped = (guesses.alphabet - 1) * ndtr(ndtri(np.minimum(right, 1.0)) - mus)
        grown = np.maximum(wrong, flipped)
        right = right + i / (made - i) * (grown - wrong)
        wrong = grown
    return right + wrong > made / m * (1 + SLACK)
