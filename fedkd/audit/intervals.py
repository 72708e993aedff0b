"""Confidence limits that the audit's statistics share: binomial shares, and means by bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES = 2000
CELLS_AT_ONCE = 250_000
LEAST_DEVIATION = 0.3
TINY = 1e-9
FEWEST = 5
"""Below so many canaries a bootstrap of them says nothing and none is made."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A two-sided interval.

    Attributes:
        low: lower end.
        high: upper end.
        confidence: nominal coverage, such as 0.95.
    """

    low: float
    high: float
    confidence: float = 0.95


def lower_limit(hits: ArrayLike, trials: ArrayLike, *, alpha: ArrayLike) -> Floats:
    """Return the one-sided Clopper-Pearson lower limit of a share, at confidence 1 - alpha.

    Exact for independent trials: it exceeds the true share with probability at most ``alpha``.
    Broadcasts. Source: Clopper & Pearson 1934, as quantiles of the Beta law.
    """
    hits, trials = np.broadcast_arrays(np.asarray(hits, float), np.asarray(trials, float))
    some = hits > 0
    misses = np.where(some, trials - hits + 1, 1)
    return np.where(some, betaincinv(np.where(some, hits, 1), misses, alpha), 0.0)


def upper_limit(hits: ArrayLike, trials: ArrayLike, *, alpha: ArrayLike) -> Floats:
    """Return the one-sided Clopper-Pearson upper limit of a share, at confidence 1 - alpha."""
    return 1 - lower_limit(np.asarray(trials) - np.asarray(hits), trials, alpha=alpha)


def share_interval(hits: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Return the two-sided Clopper-Pearson interval of a share of independent trials."""
    alpha = (1 - confidence) / 2
    low = float(lower_limit(hits, trials, alpha=alpha))
    return Interval(
        low=low, high=float(upper_limit(hits, trials, alpha=alpha)), confidence=confidence
    )


def studentized(
    values: Floats, *, rng: np.random.Generator, confidence: float, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the central quantiles of the t-statistic of a mean, by bootstrap.

    Of ``sqrt(n) (mean - true mean) / deviation``, for ``values`` ``[n]``, ``FEWEST`` or more. The
    bootstrap-t of Efron 1981: with few and skewed values its intervals cover what they say, where
    those of resampled means are too narrow. A resample that is nearly constant, as happens where
    most values are at their cap, has three tenths of the values' own deviation at least.
    """
    n, spread = len(values), float(values.std(ddof=1))
    at_once = max(1, CELLS_AT_ONCE // n)
    drawn: list[Floats] = []
    for start in range(0, resamples, at_once):
        picks = rng.integers(0, n, size=(min(at_once, resamples - start), n))
        resampled = values[picks]
        deviations = np.maximum(resampled.std(axis=1, ddof=1), LEAST_DEVIATION * spread)
        drawn.append((resampled.mean(axis=1) - values.mean()) / deviations)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn) * n**0.5, [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(
    values: Floats, *, most: float, rng: np.random.Generator, confidence: float
) -> Interval:
    """Return the interval of the mean of values from 0 to ``most``; see :func:`studentized`.

    Of values that are all alike nothing can be drawn anew. Then the interval says how many others
    there may be, by Clopper and Pearson, if those are as far off as can be.
    """
    middle, spread = float(values.mean()), float(values.std(ddof=1))
    if spread <= TINY * most:
        alike = float(lower_limit(len(values), len(values), alpha=(1 - confidence) / 2))
        low, high = alike * middle, middle + (1 - alike) * (most - middle)
    else:
        error = spread / len(values) ** 0.5
        ends = studentized(values, rng=rng, confidence=confidence)
        low, high = middle - ends[1] * error, middle - ends[0] * error
    return Interval(
        low=min(middle, max(0.0, low)), high=max(middle, min(most, high)), confidence=confidence
    )
