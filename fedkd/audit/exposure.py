"""Exposure: how far up a model ranks the secret it was trained on among the secrets it was not.

Carlini et al. 2019, The Secret Sharer, https://arxiv.org/abs/1802.08232. Exposure is
log2(candidates) - log2(rank), in bits. It is never 0 on average: a canary that leaked nothing has a
uniform rank, so its exposure is exponential with mean 1 / ln 2 = 1.44 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc, chdtri, gammaln

from fedkd.audit.intervals import (
    FEWEST,
    Floats,
    Interval,
    Ints,
    mean_interval,
)

FLOOR = 1 / math.log(2)
"""Mean exposure, in bits, of canaries that leak nothing, among very many candidates."""
LEAST_CELLS = 2**14
LEAST_P = 1e-12
"""Smallest p-value that :func:`rank_p` returns; below it round-off speaks."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Exposures:
    """The exposure of some canaries.

    Attributes:
        ranks: int64 ``[n]``, 1 is the likeliest; ties count against the canary.
        n_candidates: secrets that each canary was ranked among, itself included.
    """

    ranks: Ints
    n_candidates: int

    @property
    def bits(self) -> Floats:
        """Exposure of each canary in bits, ``[n]``, from 0 to ``cap``."""
        return self.cap - np.log2(self.ranks)

    @property
    def cap(self) -> float:
        """The largest exposure that so many candidates can show, in bits."""
        return math.log2(self.n_candidates)

    def only(self, chosen: ArrayLike) -> Exposures:
        """Return the canaries that a mask or positions ``chosen`` name."""
        return Exposures(ranks=self.ranks[np.asarray(chosen)], n_candidates=self.n_candidates)


def exact_exposure(losses: ArrayLike, secrets: ArrayLike) -> Exposures:
    """Return the exposure of canaries whose every possible secret was scored.

    Args:
        losses: ``[n, k]``, the loss of each candidate in each canary's place, in any unit.
        secrets: ``[n]``, the column that was inserted; drawn uniformly, before training.

    Raises:
        ValueError: a loss is not a number, or shapes differ.
    """
    table, columns = np.asarray(losses, float), np.asarray(secrets)
    if table.ndim != 2 or columns.shape != table.shape[:1] or table.shape[1] < 2:
        raise ValueError(
            f"losses {table.shape} and secrets {columns.shape}: give [n, k >= 2] and [n]"
        )
    if ((columns < 0) | (columns >= table.shape[1])).any():
        raise ValueError(
            f"secrets from {columns.min()} to {columns.max()}: give columns of {table.shape}"
        )
    own = np.take_along_axis(_numbers(table), columns[:, None], axis=1)
    return Exposures(ranks=(table <= own).sum(axis=1), n_candidates=table.shape[1])


def interpolated_exposure(losses: ArrayLike, references: ArrayLike) -> Exposures:
    """Return the exposure estimated from random references; never above log2(n_ref + 1) bits.

    The canary is ranked among its references and itself, so that its rank over (n_ref + 1) is
    uniform when nothing leaks. Every canary needs its own draw of references, from the law of its
    secret: a draw shared by n canaries makes their ranks dependent, and the variance of their mean
    grows by about 1 + n / n_ref, which no p-value or bound here allows for.

    Args:
        losses: ``[n]``, the loss of each canary.
        references: ``[n, n_ref]``, losses of secrets that were never inserted.

    Raises:
        ValueError: a loss is not a number, or shapes differ.
    """
    own, others = np.asarray(losses, float), np.asarray(references, float)
    if own.ndim != 1 or others.ndim != 2 or len(own) != len(others) or others.shape[1] < 1:
        raise ValueError(
            f"losses {own.shape} and references {others.shape}: give [n] and [n, n_ref], "
            "one draw of references for each canary"
        )
    below = (_numbers(others) <= _numbers(own)[:, None]).sum(axis=1)
    return Exposures(ranks=1 + below, n_candidates=others.shape[1] + 1)


def _numbers(losses: Floats) -> Floats:
    if np.isnan(losses).any():
        raise ValueError("a loss is NaN; give the training that made it a lower learning rate")
    return losses


def floor_of(n_candidates: int) -> float:
    """Return the mean exposure of a uniform rank in bits: 1.44 at most, 1.14 for 10 candidates."""
    nats_of_ranks = float(gammaln(n_candidates + 1)) / n_candidates  # mean of ln(1) .. ln(k)
    return math.log2(n_candidates) - nats_of_ranks / math.log(2)


def chi_square_p(exposures: Exposures) -> float:
    """Return the p-value of "no canary leaks anything", from the sum of all exposures.

    2 ln 2 sum(exposure) is chi-square with 2n degrees of freedom for continuous, independent
    ranks; with few candidates it is too large a p-value, never too small. See :func:`rank_p`.
    """
    nats = math.log(2) * float(exposures.bits.sum())
    return float(chdtrc(2 * len(exposures.ranks), 2 * nats))


def rank_p(exposures: Exposures) -> float:
    """Return the p-value of "no canary leaks anything" from the law of ranks among few candidates.

    The law of the sum of independent exposures is convolved on a grid: the exposures that may
    happen are rounded up and the observed sum down, so that it errs upwards, by about a
    twentieth of a standard deviation, at most a tenth. It is at least 1e-12.
    """
    n, k = len(exposures.ranks), exposures.n_candidates
    total = float(exposures.bits.sum())
    most = float(chdtri(2 * n, LEAST_P / 100)) / (2 * math.log(2))  # hardly ever exceeded
    if total >= most:
        return LEAST_P
    reach = min(most, n * exposures.cap)
    step = min(0.1 / math.sqrt(n), reach / LEAST_CELLS)
    size = 2 ** math.ceil(math.log2(reach / step + 2 * n + 2))
    cells = np.ceil((exposures.cap - np.log2(np.arange(1, k + 1))) / step)
    one = np.bincount(cells.astype(np.int64), minlength=size)[:size] / k
    law = np.fft.irfft(np.fft.rfft(one) ** n, size)
    observed = math.floor(total / step * (1 - 1e-12))
    return min(1.0, max(LEAST_P, float(law[observed:].sum())))


@dataclass(frozen=True, kw_only=True)
class LevelExposure:
    """The canaries that were inserted equally often.

    Attributes:
        insertions: how often each of them was in the training data.
        n_canaries: how many there are.
        mean: their mean exposure in bits.
        interval: bootstrap-t of the mean over canaries; None for fewer than five. A nominal 95 %
            covers 93 to 97 %, but 87 % where 1 in 10 canaries leaks all and the others nothing.
        floor: mean exposure in bits if nothing leaked.
        cap: largest exposure in bits that could have been seen.
        chi_square_p: p-value of "nothing leaks"; see :func:`chi_square_p`.
        rank_p: the same with full power among few candidates; see :func:`rank_p`.
    """

    insertions: int
    n_canaries: int
    mean: float
    interval: Interval | None
    floor: float
    cap: float
    chi_square_p: float
    rank_p: float


def by_insertions(
    exposures: Exposures,
    insertions: ArrayLike,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> tuple[LevelExposure, ...]:
    """Return mean exposures level by level, in rising order of insertions; levels are not pooled.

    Args:
        exposures: of n canaries.
        insertions: int ``[n]``.
        rng: draws the bootstrap.
        confidence: of the intervals.
    """
    counts = np.asarray(insertions)
    if counts.shape != exposures.ranks.shape:
        raise ValueError(f"insertions {counts.shape}: give one for each canary")
    return tuple(
        _level(exposures.only(counts == count), int(count), rng=rng, confidence=confidence)
        for count in np.unique(counts)
    )


def _level(
    exposures: Exposures, insertions: int, *, rng: np.random.Generator, confidence: float
) -> LevelExposure:
    bits = exposures.bits
    interval = None
    if len(bits) >= FEWEST:
        interval = mean_interval(bits, most=exposures.cap, rng=rng, confidence=confidence)
    return LevelExposure(
        insertions=insertions,
        n_canaries=len(bits),
        mean=float(bits.mean()),
        interval=interval,
        floor=floor_of(exposures.n_candidates),
        cap=exposures.cap,
        chi_square_p=chi_square_p(exposures),
        rank_p=rank_p(exposures),
    )
