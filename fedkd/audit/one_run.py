"""A certified epsilon from one training run: guesses about many canaries at once.

Steinke, Nasr & Jagielski 2023, https://arxiv.org/abs/2305.08846: under (epsilon, delta)-DP the
right guesses are dominated by Binomial(made, e^epsilon / (1 + e^epsilon)), up to delta. Gaussian
mechanisms have a tighter bound in ``gaussian``; real audits land at an epsilon of 1 to 2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, expit, gammaln, log_expit

from fedkd.audit.bounds import EpsilonBound
from fedkd.audit.guesses import Guesses
from fedkd.audit.intervals import Floats, lower_limit

PER_PASS, PASSES = 32, 3
"""Each pass tries so many epsilons at once, within the gap the last one left."""


def one_run_p(guesses: Guesses, epsilon: ArrayLike, *, delta: float = 0.0) -> Floats:
    """Return the largest probability, under (epsilon, delta)-DP, of as many right guesses.

    P[B >= v] + 2 m delta max_{1 <= i <= v} P[v > B >= v - i] / i, for v right of r guesses about m
    canaries and B ~ Binomial(r, e^epsilon / (1 + e^epsilon)). One for each ``epsilon``.
    """
    r, v, m = guesses.made, guesses.correct, guesses.n_canaries
    given = np.asarray(epsilon, float)
    if not v:
        return np.ones_like(given)
    p = betainc(v, r - v + 1, expit(given))
    if delta:
        j = np.arange(v - 1, -1, -1)  # chance of j right: C(r, j) q^j (1 - q)^(r - j)
        choices = gammaln(r + 1) - gammaln(j + 1) - gammaln(r - j + 1)
        wrong, right = log_expit(-given)[..., None], log_expit(given)[..., None]
        just_below = np.cumsum(np.exp(choices + j * right + (r - j) * wrong), axis=-1)
        p = p + 2 * m * delta * (just_below / np.arange(1, v + 1)).max(axis=-1)
    return np.minimum(p, 1.0)


def one_run_bound(guesses: Guesses, *, delta: float = 0.0, alpha: float = 0.05) -> EpsilonBound:
    """Return the epsilon that the guesses of one run certify for any mechanism.

    Args:
        guesses: about membership; how many to make was fixed in advance or chosen on another half.
        delta: of the guarantee that is bounded.
        alpha: chance of a wrong bound.

    Raises:
        ValueError: the guesses are about secrets of more than two values.
    """
    if guesses.alphabet != 2:
        raise ValueError(
            f"an alphabet of {guesses.alphabet}: this bound is about bits; use kary_bound or "
            "one_run_bound_gaussian"
        )
    return EpsilonBound(
        epsilon=_largest_rejected(guesses, delta=delta, alpha=alpha),
        ceiling=_largest_rejected(guesses.all_right(), delta=delta, alpha=alpha),
        delta=delta,
        confidence=1 - alpha,
        relation=guesses.relation,
        rule=guesses.rule,
        choice=guesses.made,
        assumptions=(guesses.assumption,),
        n_canaries=guesses.n_canaries,
    )


def _largest_rejected(guesses: Guesses, *, delta: float, alpha: float) -> float:
    """Return the end of the first stretch of epsilons, from 0 on, whose p-value is below alpha.

    Without delta it is the Clopper-Pearson limit of the accuracy; delta only lowers it. The
    p-value need not grow everywhere with delta, so the stretch is looked for on ever finer grids.
    """
    accuracy = float(lower_limit(guesses.correct, guesses.made, alpha=alpha))
    most = math.log(accuracy / (1 - accuracy)) if accuracy > 0.5 else 0.0
    if not delta or not most:
        return most

    low, high = 0.0, most
    for _ in range(PASSES):
        grid = np.linspace(low, high, PER_PASS)
        kept = np.append(np.flatnonzero(one_run_p(guesses, grid, delta=delta) >= alpha), PER_PASS)
        if kept[0] == 0:
            return 0.0
        low, high = float(grid[kept[0] - 1]), float(grid[min(kept[0], PER_PASS - 1)])
    return low
