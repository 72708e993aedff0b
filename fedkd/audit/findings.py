"""What an attack found: the statistics of its scores, one line of a report's table.

Attacks give scores; everything that is concluded from them is worked out here, in one way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedkd.audit.bounds import EpsilonBound, membership_bound_split
from fedkd.audit.exposure import Exposures, LevelExposure, by_insertions
from fedkd.audit.extrapolation import Extrapolation
from fedkd.audit.kary import kary_bound
from fedkd.audit.roc import FPRS, Auc, Roc, TprAtFpr, auc, roc, tpr_at_fpr


@dataclass(frozen=True, eq=False, kw_only=True)
class Membership:
    """How well members were told from non-members.

    Attributes:
        auc: with DeLong's interval and Mann and Whitney's p.
        tpr: at 1 % and at 0.1 % false alarms, with Clopper-Pearson intervals.
        roc: the whole curve with its pointwise band.
        bound: the epsilon certified; threshold chosen on one half, bounded on the other. None
            where members differ from non-members in more than membership.
    """

    auc: Auc
    tpr: tuple[TprAtFpr, ...]
    roc: Roc
    bound: EpsilonBound | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Extraction:
    """How well canary secrets were ranked.

    Attributes:
        exposures: of every canary that was ranked, in order of their numbers.
        numbers: int64 ``[n]``, of those canaries.
        insertions: int64 ``[n]``, of every one.
        levels: by number of insertions, never pooled.
        bound: the epsilon that the highest level certifies, for replacing a canary's examples,
            all insertions at all holders together.
        extrapolations: one a canary, None for one that another secret beats, whose rank says
            enough; None altogether where every secret was ranked, so that ranks are exact.
    """

    exposures: Exposures
    numbers: NDArray[np.int64]
    insertions: NDArray[np.int64]
    levels: tuple[LevelExposure, ...]
    bound: EpsilonBound
    extrapolations: tuple[Extrapolation | None, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelGuess:
    """A client's label distribution, true and guessed; shares that sum to one.

    Attributes:
        kl: KL(true || guessed), nats.
        kl_prior: KL(true || the best guess without the channel), nats.
    """

    client: int
    true: tuple[float, ...]
    guessed: tuple[float, ...]
    kl: float
    kl_prior: float


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Any other measure of success.

    Attributes:
        name: in words, such as "share of answers a stolen copy gives like the original".
        value: what was reached.
        chance: what an adversary without the channel reaches.
        interval: 95 %, or None.
        p: of "no better than chance", or None.
    """

    name: str
    value: float
    chance: float
    interval: tuple[float, float] | None = None
    p: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What one attack measured; None and empty for what it does not measure.

    Attributes:
        at_risk: what it was after, in plain words ("canary secrets", "membership of records").
        bound: a bound of its own, when it is neither of membership nor of extraction.
        bound_unit: what the epsilon of that bound, or of the extraction's, is about, in words.
        note: limits, what was not possible, in one or two sentences.
    """

    at_risk: str
    membership: Membership | None = None
    extraction: Extraction | None = None
    labels: tuple[LabelGuess, ...] = ()
    figures: tuple[Figure, ...] = ()
    bound: EpsilonBound | None = None
    bound_unit: str = ""
    note: str = ""


def membership(
    members: ArrayLike, nonmembers: ArrayLike, *, rng: np.random.Generator, delta: float = 0.0
) -> Membership:
    """Return what scores of members and non-members amount to; higher is a likelier member.

    Args:
        members: ``[n >= 2]``.
        nonmembers: ``[m >= 2]``.
        rng: draws the halves of the bound.
        delta: of the guarantee that is bounded.
    """
    return Membership(
        auc=auc(members, nonmembers),
        tpr=tuple(tpr_at_fpr(members, nonmembers, fpr=fpr) for fpr in FPRS),
        roc=roc(members, nonmembers),
        bound=membership_bound_split(members, nonmembers, rng=rng, delta=delta),
    )


def extraction(
    exposures: Exposures,
    insertions: ArrayLike,
    *,
    rng: np.random.Generator,
    numbers: ArrayLike | None = None,
    extrapolations: tuple[Extrapolation | None, ...] | None = None,
    delta: float = 0.0,
) -> Extraction:
    """Return what the ranks of canaries amount to.

    The rank that counts as success is fixed: the first. ``numbers`` are the canaries' own, from 0
    on by default. Extrapolations are kept beside the ranks and go into no test and no bound.
    """
    counts = np.asarray(insertions, dtype=np.int64)
    own = np.arange(len(counts)) if numbers is None else np.asarray(numbers, dtype=np.int64)
    return Extraction(
        exposures=exposures,
        numbers=own,
        insertions=counts,
        levels=by_insertions(exposures, counts, rng=rng),
        bound=kary_bound(exposures.only(counts == counts.max()), delta=delta),
        extrapolations=extrapolations,
    )
