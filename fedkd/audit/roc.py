"""How well an attack tells members from non-members: AUC, and TPR where false alarms are rare.

Scores are higher for likelier members. Intervals assume that scores are independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import mannwhitneyu, rankdata

from fedkd.audit.bounds import count_at_least, scores_of
from fedkd.audit.intervals import (
    Floats,
    Interval,
    lower_limit,
    share_interval,
    upper_limit,
)

FPRS = (0.01, 0.001)
EXACT_PAIRS = 2_500
"""Up to so many pairs of a member and a non-member the law of an AUC by chance is enumerated."""


@dataclass(frozen=True, kw_only=True)
class Auc:
    """The chance that a random member scores above a random non-member, ties counting half.

    Attributes:
        value: 0.5 is guessing.
        interval: see :func:`auc`.
        p: one-sided, of "members score no higher"; see :func:`chance_p`.
        n_members: scores of members.
        n_nonmembers: scores of non-members.
    """

    value: float
    interval: Interval
    p: float
    n_members: int
    n_nonmembers: int


def auc(members: ArrayLike, nonmembers: ArrayLike, *, confidence: float = 0.95) -> Auc:
    """Return the area under the ROC with DeLong's interval.

    DeLong, DeLong & Clarke-Pearson 1988, by midranks (Sun & Xu 2014); normal, so asymptotic, and
    cut at 0 and 1. Where it has no width (perfect separation, or a single score on a side) the
    interval is the exact one of as many disjoint pairs as there are, wide but valid.
    """
    ins, outs = scores_of(members), scores_of(nonmembers)
    n, m = len(ins), len(outs)
    ranks = rankdata(np.concatenate([ins, outs]))
    above_outs = (ranks[:n] - rankdata(ins)) / m
    above_ins = 1 - (ranks[n:] - rankdata(outs)) / n
    value = float(above_outs.mean())
    spread = 0.0
    if min(n, m) > 1:
        spread = math.sqrt(float(above_outs.var(ddof=1) / n + above_ins.var(ddof=1) / m))
    if spread > 0:
        reach = float(ndtri((1 + confidence) / 2)) * spread
        low, high = max(0.0, value - reach), min(1.0, value + reach)
    else:
        low, high = _by_pairs(value, min(n, m), confidence=confidence)
    interval = Interval(low=low, high=high, confidence=confidence)
    p = chance_p(ins, outs)
    return Auc(value=value, interval=interval, p=p, n_members=n, n_nonmembers=m)


def chance_p(members: ArrayLike, nonmembers: ArrayLike) -> float:
    """Return Mann and Whitney's one-sided p of "members score no higher than non-members".

    Exact up to 2,500 pairs, ties included; beyond that the normal approximation with corrections
    for ties and continuity. The normal p of DeLong's interval, for ten against ten, is below 0.005
    in 1.6 % of the cases without any leak.
    """
    ins, outs = scores_of(members), scores_of(nonmembers)
    if len(ins) * len(outs) > EXACT_PAIRS:
        return float(mannwhitneyu(ins, outs, alternative="greater", method="asymptotic").pvalue)
    return _exact_p(ins, outs) if len(ins) <= len(outs) else _exact_p(-outs, -ins)


def _exact_p(ins: Floats, outs: Floats) -> float:
    """Return the share of ways to pick n scores whose ranks add up to those of ``ins`` or more.

    Ways are counted score by score, by how many were picked and by their doubled midranks' sum.
    """
    n = len(ins)
    ranks = np.rint(2 * rankdata(np.concatenate([ins, outs]))).astype(np.int64)
    top = int(np.sort(ranks)[-n:].sum())
    ways = np.zeros((n + 1, top + 1))
    ways[0, 0] = 1
    for rank in ranks.tolist():
        ways[1:, rank:] += ways[:-1, : top + 1 - rank]
    return float(ways[n, ranks[:n].sum() :].sum() / ways[n].sum())


def _by_pairs(value: float, pairs: int, *, confidence: float) -> tuple[float, float]:
    """Return limits for a share that was ``value`` in so many pairs, rounded outwards."""
    alpha = (1 - confidence) / 2
    low = lower_limit(math.floor(value * pairs), pairs, alpha=alpha)
    return float(low), float(upper_limit(math.ceil(value * pairs), pairs, alpha=alpha))


@dataclass(frozen=True, kw_only=True)
class TprAtFpr:
    """The share of members found while at most ``fpr`` of the non-members are called members.

    Attributes:
        fpr: the share of false alarms that is allowed.
        value: share of members above the threshold; None when it cannot be told.
        interval: Clopper-Pearson, for this threshold; None likewise.
        fpr_high: upper limit of the threshold's true false-positive rate, one-sided at half of
            what ``interval`` leaves; None likewise.
        threshold: scores above it are called members; None likewise.
        reason: why not.
    """

    fpr: float
    value: float | None
    interval: Interval | None
    fpr_high: float | None
    threshold: float | None
    reason: str | None


def tpr_at_fpr(
    members: ArrayLike, nonmembers: ArrayLike, *, fpr: float, confidence: float = 0.95
) -> TprAtFpr:
    """Return the TPR at the threshold below which all but ``fpr`` of the non-members are.

    None when there are fewer than 1 / ``fpr`` non-members: no false alarm would be allowed, and
    "at 0.1 %" would be a claim about non-members nobody has seen.
    """
    ins, outs = scores_of(members), np.sort(scores_of(nonmembers))
    allowed = math.floor(fpr * len(outs) * (1 + 1e-12))
    if allowed < 1:
        return TprAtFpr(
            fpr=fpr,
            value=None,
            interval=None,
            fpr_high=None,
            threshold=None,
            reason=f"{len(outs)} non-members; a false-positive rate of {fpr:g} takes "
            f"{math.ceil(1 / fpr - 1e-9)} or more",
        )
    threshold = float(outs[max(len(outs) - 1 - allowed, 0)])
    hits = int((ins > threshold).sum())
    alpha = (1 - confidence) / 2
    return TprAtFpr(
        fpr=fpr,
        value=hits / len(ins),
        interval=share_interval(hits, len(ins), confidence=confidence),
        fpr_high=float(upper_limit(allowed, len(outs), alpha=alpha)),
        threshold=threshold,
        reason=None,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Roc:
    """The curve, one point a distinct score, from (0, 0) to (1, 1); all arrays ``[points]``.

    Attributes:
        thresholds: falling; at or above is called a member; the first is infinite.
        fpr: rising.
        tpr: rising.
        tpr_low: lower end of the pointwise Clopper-Pearson band.
        tpr_high: its upper end.
        confidence: of the band, at each point by itself.
    """

    thresholds: Floats
    fpr: Floats
    tpr: Floats
    tpr_low: Floats
    tpr_high: Floats
    confidence: float


def roc(members: ArrayLike, nonmembers: ArrayLike, *, confidence: float = 0.95) -> Roc:
    """Return the ROC with its pointwise band, every distinct score a threshold."""
    ins, outs = scores_of(members), scores_of(nonmembers)
    thresholds = np.unique(np.concatenate([ins, outs]))[::-1]
    hits, alarms = (np.append(0, count_at_least(scores, thresholds)) for scores in (ins, outs))
    alpha = (1 - confidence) / 2
    return Roc(
        thresholds=np.append(np.inf, thresholds),
        fpr=alarms / len(outs),
        tpr=hits / len(ins),
        tpr_low=lower_limit(hits, len(ins), alpha=alpha),
        tpr_high=upper_limit(hits, len(ins), alpha=alpha),
        confidence=confidence,
    )
