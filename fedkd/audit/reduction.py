"""How much of the exposure above the floor a protection takes away, on the same canaries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedkd.audit.exposure import Exposures, chi_square_p, floor_of
from fedkd.audit.intervals import FEWEST, TINY, Floats, Interval, studentized

SIGNIFICANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """One minus the share of the exposure above the floor that is left with protection.

    Attributes:
        value: 1 is down to the floor, 0 is no effect, below 0 is worse; a mean that chance put
            under the floor gives more than 1. None when it is undefined.
        interval: over canaries in pairs, see :func:`_interval`; None when it is undefined or open.
            A nominal 95 % covers 92 to 97 % from 10 canaries on, but 87 % of 10 where one in ten
            leaks all with protection and the others nothing.
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
    pairs: Floats, *, floor: float, rng: np.random.Generator, confidence: float
) -> tuple[Interval | None, str | None]:
    """Return the interval, or None and why.

    Fieller's: a share r left is kept while the mean of (protected - floor) - r (plain - floor) is
    no further from 0 than its t-statistic goes by bootstrap. It is open where the plain mean is
    not that far from the floor.
    """
    if len(pairs) < FEWEST:
        return None, f"{len(pairs)} canaries are too few for an interval; plant {FEWEST} or more"
    plain, protected = (pairs - floor).T
    left = float(protected.mean() / plain.mean())
    differences = protected - left * plain
    if differences.std() <= TINY:
        return None, "exposure shrank alike for every canary, so none can be drawn that differ"
    ends = [
        _share_at(plain, protected, left=left, t=t)
        for t in studentized(differences, rng=rng, confidence=confidence)
    ]
    if None in ends:
        return None, "plain exposures are too near the floor, or too unequal; plant more canaries"
    low, high = (1 - share for share in ends if share is not None)
    return Interval(low=min(low, high), high=max(low, high), confidence=confidence), None


def _share_at(plain: Floats, protected: Floats, *, left: float, t: float) -> float | None:
    """Return the share r at which the t-statistic of protected - r plain is ``t``, or None."""
    errors = np.cov(plain, protected) / len(plain)
    above = float(plain.mean())
    square = above**2 - t**2 * float(errors[0, 0])
    if square <= 0:
        return None
    # (protected - r plain)^2 = t^2 variance: around ``left``, where the left side is 0
    at_left = float(errors[1, 1] - 2 * left * errors[0, 1] + left**2 * errors[0, 0])
    slope = t**2 * float(errors[0, 1] - left * errors[0, 0])
    reach = math.sqrt(slope**2 + square * t**2 * max(at_left, 0.0))
    return left - (slope + math.copysign(reach, t)) / square
