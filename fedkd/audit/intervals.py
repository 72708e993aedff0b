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


def resampled_means(
    columns: Floats, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Return bootstrap means ``[resamples, columns]`` of ``columns`` ``[n, columns]``.

    Rows are drawn with replacement, whole: the columns stay paired.
    """
    n = len(columns)
    at_once = max(1, CELLS_AT_ONCE // n)
    drawn: list[Floats] = []
    for start in range(0, resamples, at_once):
        picks = rng.integers(0, n, size=(min(at_once, resamples - start), n))
        drawn.append(np.stack([column[picks].mean(axis=1) for column in columns.T], axis=1))
    return np.concatenate(drawn)


def percentiles(draws: Floats, *, confidence: float) -> Interval:
    """Return the central interval of bootstrap draws ``[resamples]``, infinite ones included."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], method="nearest")
    return Interval(low=float(low), high=float(high), confidence=confidence)
