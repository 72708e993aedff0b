"""What an audit could find at all: its power against the most revealing mechanism of an epsilon.

Power is the chance that the certified epsilon exceeds a target when the truth is randomized
response (or its like for secrets) of the given epsilon, and the attack is perfect. Real attacks
are worse, so these are upper limits to be printed next to a result of 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit
from scipy.stats import binom

from fedkd.audit.findings import Membership, Result
from fedkd.audit.guesses import Guesses
from fedkd.audit.intervals import lower_limit, upper_limit
from fedkd.audit.kary import kary_epsilon, success_rate
from fedkd.audit.one_run import one_run_p

LARGEST_EPSILON = 20.0
WANTED = 0.8


def least_found(found: Result) -> float | None:
    """Return the least true epsilon whose bound would be above 0 in 80 % of audits like this one.

    Infinity when even an epsilon of 20 would not; None where nothing was bounded.
    """
    if found.bound is not None:
        n, made, delta = found.bound.n_canaries, int(found.bound.choice), found.bound.delta
        return detectable(lambda epsilon: one_run_power(n, made, epsilon=epsilon, delta=delta))
    if found.extraction is not None:
        bound, k = found.extraction.bound, found.extraction.exposures.n_candidates
        n, delta = bound.n_canaries, bound.delta
        return detectable(lambda epsilon: kary_power(n, k, epsilon=epsilon, delta=delta))
    return None if found.membership is None else _membership_found(found.membership)


def _membership_found(found: Membership) -> float | None:
    """Return the same for the half of the scores that is bounded."""
    if found.bound is None:
        return None
    ins, outs = (n - n // 2 for n in (found.auc.n_members, found.auc.n_nonmembers))
    delta = found.bound.delta
    return detectable(lambda epsilon: membership_power(ins, outs, epsilon=epsilon, delta=delta))


def membership_power(
    n_members: int,
    n_nonmembers: int,
    *,
    epsilon: float,
    target: float = 0.0,
    delta: float = 0.0,
    alpha: float = 0.05,
) -> float:
    """Return the power of a fixed threshold on so many scores, all of them bounded."""
    low = lower_limit(np.arange(n_members + 1), n_members, alpha=alpha / 2)
    high = upper_limit(np.arange(n_nonmembers + 1), n_nonmembers, alpha=alpha / 2)
    odds = np.exp(target)
    # either direction certifies below:
    fpr_below = np.maximum((low - delta) / odds, 1 - delta - odds * (1 - low))
    alarms = np.searchsorted(high, fpr_below, side="left") - 1
    rate = float(expit(epsilon))
    quiet = np.where(alarms >= 0, binom.cdf(alarms, n_nonmembers, 1 - rate), 0.0)
    return float(binom.pmf(np.arange(n_members + 1), n_members, rate) @ quiet)


def kary_power(
    n_canaries: int,
    n_candidates: int,
    *,
    epsilon: float,
    top: int = 1,
    target: float = 0.0,
    delta: float = 0.0,
    alpha: float = 0.05,
) -> float:
    """Return the power of so many canaries whose secret is one of ``n_candidates``."""
    certified = kary_epsilon(
        np.arange(n_canaries + 1),
        n_canaries,
        n_candidates=n_candidates,
        top=top,
        delta=delta,
        alpha=alpha,
    )
    enough = int((certified <= target).sum())
    rate = success_rate(epsilon, n_candidates, top=top)
    return float(binom.sf(enough - 1, n_canaries, rate))


def one_run_power(
    n_canaries: int,
    n_guesses: int,
    *,
    epsilon: float,
    target: float = 0.0,
    delta: float = 0.0,
    alpha: float = 0.05,
) -> float:
    """Return the power of so many guesses about so many canaries in one run."""
    few, enough = -1, n_guesses + 1
    while enough - few > 1:
        middle = (few + enough) // 2
        guesses = Guesses(n_canaries=n_canaries, made=n_guesses, correct=middle)
        rejected = bool(one_run_p(guesses, target, delta=delta) < alpha)
        few, enough = (few, middle) if rejected else (middle, enough)
    return float(binom.sf(enough - 1, n_guesses, float(expit(epsilon))))


def detectable(power: Callable[[float], float], *, wanted: float = WANTED) -> float:
    """Return the least true epsilon (to 0.01) that is found with probability ``wanted``.

    Args:
        power: of a true epsilon, rising; such as ``lambda e: kary_power(100, 10, epsilon=e)``.
        wanted: between 0 and 1.

    Returns:
        Infinity when even an epsilon of 20 is not.
    """
    low, high = 0.0, LARGEST_EPSILON
    if power(high) < wanted:
        return float("inf")
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= wanted else (middle, high)
    return high
