"""How much of the exposure above the floor a protection takes away, on the same canaries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedkd.audit.exposure import Exposures, chi_square_p, floor_of
from fedkd.audit.intervals import FEWEST, Interval, percentiles, resampled_means

SIGNIFICANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """One minus the share of the exposure above the floor that is left with protection.

    Attributes:
        value: 1 is down to the floor, 0 is no effect, below 0 is worse; a mean that chance put
            under the floor gives more than 1. None when it is undefined.
        interval: percentile bootstrap over canaries, drawn in pairs; None when it is undefined or
            open. A nominal 95 % covers about 87 % with 10 canaries, 92 to 94 % from 20 on.
        reason: why something is None.
        plain: mean exposure in bits without protection.
        protected: mean exposure in bits with it.
        floor: mean exposure in bits of canaries that leak nothing.
        n_canaries: pairs.
    """

    value: float | None
    interval: Interval | None
    reason: str | None
    plain: float
    protected: float
    floor: float
    n_canaries: int


def exposure_reduction(
    plain: Exposures,
    protected: Exposures,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> Reduction:
    """Return 1 - (protected - floor) / (plain - floor) of the mean exposures.

    Undefined unless the plain exposure is above the floor by the chi-square test at 5 %: nothing
    cannot be reduced. Give one insertion level at a time.

    Args:
        plain: canaries of the run without protection.
        protected: the same canaries, in the same order, of the run with it.
        rng: draws the bootstrap.
        confidence: of the interval.

    Raises:
        ValueError: the two do not pair.
    """
    if len(plain.ranks) != len(protected.ranks) or plain.n_candidates != protected.n_candidates:
        raise ValueError(
            f"{len(plain.ranks)} canaries among {plain.n_candidates} candidates against "
            f"{len(protected.ranks)} among {protected.n_candidates}: audit both runs with the "
            "same canaries"
        )
    pairs = np.stack([plain.bits, protected.bits], axis=1)
    floor = floor_of(plain.n_candidates)
    means = pairs.mean(axis=0)
    value, interval = None, None
    p = chi_square_p(plain)
    reason = f"the plain run does not leak: p = {p:.2g}, {means[0]:.2f} bits (floor {floor:.2f})"
    if p < SIGNIFICANCE and means[0] > floor:
        value = float(1 - (means[1] - floor) / (means[0] - floor))
        interval, reason = _interval(pairs, floor=floor, rng=rng, confidence=confidence)
    return Reduction(
        value=value,
        interval=interval,
        reason=reason,
        plain=float(means[0]),
        protected=float(means[1]),
        floor=floor,
        n_canaries=len(pairs),
    )


def _interval(
    pairs: np.ndarray, *, floor: float, rng: np.random.Generator, confidence: float
) -> tuple[Interval | None, str | None]:
    """Return the interval, or None and why; resamples without plain leakage count as -infinity."""
    if len(pairs) < FEWEST:
        return None, f"{len(pairs)} canaries are too few for an interval; plant {FEWEST} or more"
    plain, protected = (resampled_means(pairs, rng=rng) - floor).T
    leaks = plain > 0
    left = np.divide(protected, plain, out=np.full_like(plain, np.inf), where=leaks)
    interval = percentiles(1 - left, confidence=confidence)
    if math.isinf(interval.low):
        return None, "the plain exposure is too near the floor for an interval; plant more canaries"
    return interval, None
