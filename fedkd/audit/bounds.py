"""From membership scores to a certified epsilon: the classical bound, with an honest threshold.

For a threshold that did not see the scores it is judged on, epsilon is at least
max(ln((TPR_L - delta) / FPR_U), ln((TNR_L - delta) / FNR_U)), rates replaced by Clopper-Pearson
limits. The best of many thresholds is no such bound: it raises false alarms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from fedkd.audit.intervals import Floats, lower_limit, upper_limit


class Relation(StrEnum):
    """Which change of the data the certified epsilon is about."""

    ADD_OR_REMOVE = "add or remove one"
    REPLACE = "replace one"


class Rule(StrEnum):
    """How the auditor's free choice (threshold, rank, guesses) was kept honest."""

    FIXED = "fixed in advance"
    BONFERRONI = "several fixed in advance, Bonferroni"
    SPLIT = "chosen on one half, bounded on the other"


class Assumption(StrEnum):
    """What must hold for the bound to hold, beyond the rule."""

    INDEPENDENT = "scores are independent: one canary a run, or canaries that do not interact"
    RANDOM_BITS = "each canary was included by its own fair coin"
    RANDOM_SECRETS = "each secret was drawn uniformly and independently before training"
    GAUSSIAN = "model-based: the mechanism trades off errors like a Gaussian one"


@dataclass(frozen=True, kw_only=True)
class EpsilonBound:
    """A lower bound on epsilon that is wrong with probability at most 1 - ``confidence``.

    Attributes:
        epsilon: certified; 0 when the audit found nothing.
        ceiling: what a perfect attack would have certified with as many canaries.
        delta: the delta both are stated at.
        confidence: such as 0.95.
        relation: what epsilon is about; see :attr:`add_remove_epsilon`.
        rule: how the choice was made.
        choice: the threshold, the rank that counts as success, or how many guesses were made.
        assumptions: what has to hold.
        n_canaries: how many entered the bound; the half that only selects does not.
        mu: the largest Gaussian parameter ruled out, for the Gaussian bounds.
    """

    epsilon: float
    ceiling: float
    delta: float
    confidence: float
    relation: Relation
    rule: Rule
    choice: float
    assumptions: tuple[Assumption, ...]
    n_canaries: int
    mu: float | None = None

    @property
    def add_remove_epsilon(self) -> float:
        """The bound for adding or removing one record.

        Replacing is removing and adding, so half of a replace-one bound; that half holds at
        delta / (1 + exp(epsilon / 2)).
        """
        return self.epsilon if self.relation is Relation.ADD_OR_REMOVE else self.epsilon / 2


def classical_epsilon(tpr_low: ArrayLike, fpr_high: ArrayLike, *, delta: float = 0.0) -> Floats:
    """Return the epsilon that a lower limit of TPR and an upper limit of FPR imply, at least 0.

    Both directions; the limits of TNR and FNR are the complements of the same two. Broadcasts.
    """
    low, high = np.asarray(tpr_low, float), np.asarray(fpr_high, float)
    tiny = np.finfo(float).tiny
    members = np.maximum(low - delta, tiny) / np.maximum(high, tiny)
    nonmembers = np.maximum(1 - high - delta, tiny) / np.maximum(1 - low, tiny)
    return np.maximum(np.log(np.maximum(members, nonmembers)), 0.0)


def membership_ceiling(
    n_members: int, n_nonmembers: int, *, delta: float = 0.0, alpha: float = 0.05
) -> float:
    """Return the epsilon certified by perfect separation of so many scores."""
    low = lower_limit(n_members, n_members, alpha=alpha / 2)
    high = upper_limit(0, n_nonmembers, alpha=alpha / 2)
    return float(classical_epsilon(low, high, delta=delta))


def membership_bound(
    members: ArrayLike,
    nonmembers: ArrayLike,
    *,
    threshold: float,
    delta: float = 0.0,
    alpha: float = 0.05,
) -> EpsilonBound:
    """Return the bound for a threshold that was fixed before the scores were seen.

    Each of the two rates is off with probability ``alpha`` / 2 at most.

    Args:
        members: ``[n]`` scores, higher means a likelier member; at or above the threshold is one.
        nonmembers: ``[m]`` scores.
        threshold: fixed in advance; never picked by looking at these scores.
        delta: of the guarantee that is bounded.
        alpha: chance of a wrong bound.
    """
    chosen = [threshold]
    return _best_of(members, nonmembers, chosen, delta=delta, alpha=alpha, rule=Rule.FIXED)


def membership_bound_of_several(
    members: ArrayLike,
    nonmembers: ArrayLike,
    *,
    thresholds: Sequence[float],
    delta: float = 0.0,
    alpha: float = 0.05,
) -> EpsilonBound:
    """Return the best bound of several thresholds, all fixed in advance, at alpha / how many."""
    rule = Rule.BONFERRONI
    return _best_of(members, nonmembers, thresholds, delta=delta, alpha=alpha, rule=rule)


def membership_bound_split(
    members: ArrayLike,
    nonmembers: ArrayLike,
    *,
    rng: np.random.Generator,
    delta: float = 0.0,
    alpha: float = 0.05,
) -> EpsilonBound:
    """Return the bound when one random half picks the threshold and the other is bounded.

    The default: nothing has to be fixed beforehand, half of the canaries pay for it.

    Args:
        members: ``[n >= 2]`` scores, higher means a likelier member.
        nonmembers: ``[m >= 2]`` scores.
        rng: draws the halves.
        delta: of the guarantee that is bounded.
        alpha: chance of a wrong bound.
    """
    ins, outs = (rng.permutation(scores_of(scores, least=2)) for scores in (members, nonmembers))
    picking = ins[: len(ins) // 2], outs[: len(outs) // 2]
    bounded = ins[len(ins) // 2 :], outs[len(outs) // 2 :]
    threshold = _best_threshold(*picking, delta=delta, alpha=alpha)
    return _best_of(*bounded, [threshold], delta=delta, alpha=alpha, rule=Rule.SPLIT)


def scores_of(scores: ArrayLike, *, least: int = 1) -> Floats:
    """Return the scores as float64 ``[n]``; ValueError when there are too few or one is NaN."""
    values = np.asarray(scores, float)
    if values.ndim != 1 or len(values) < least or np.isnan(values).any():
        raise ValueError(f"scores {values.shape}: give [n >= {least}] numbers without NaN")
    return values


def count_at_least(scores: Floats, thresholds: ArrayLike) -> np.ndarray:
    """Return how many scores are at or above each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), np.asarray(thresholds), side="left")


def _epsilons(
    members: Floats, nonmembers: Floats, thresholds: ArrayLike, *, delta: float, alpha: float
) -> Floats:
    hits, alarms = (count_at_least(scores, thresholds) for scores in (members, nonmembers))
    low = lower_limit(hits, len(members), alpha=alpha / 2)
    high = upper_limit(alarms, len(nonmembers), alpha=alpha / 2)
    return classical_epsilon(low, high, delta=delta)


def _best_threshold(members: Floats, nonmembers: Floats, *, delta: float, alpha: float) -> float:
    """Return the threshold with the largest bound on these scores; the median of ties."""
    candidates = np.unique(np.concatenate([members, nonmembers]))
    found = _epsilons(members, nonmembers, candidates, delta=delta, alpha=alpha)
    best = np.flatnonzero(found == found.max())
    return float(candidates[best[len(best) // 2]])


def _best_of(
    members: ArrayLike,
    nonmembers: ArrayLike,
    thresholds: Sequence[float],
    *,
    delta: float,
    alpha: float,
    rule: Rule,
) -> EpsilonBound:
    ins, outs = scores_of(members), scores_of(nonmembers)
    if not len(thresholds):
        raise ValueError("no threshold was given; fix one in advance, or use the split rule")
    share = alpha / len(thresholds)
    found = _epsilons(ins, outs, list(thresholds), delta=delta, alpha=share)
    return EpsilonBound(
        epsilon=float(found.max()),
        ceiling=membership_ceiling(len(ins), len(outs), delta=delta, alpha=share),
        delta=delta,
        confidence=1 - alpha,
        relation=Relation.ADD_OR_REMOVE,
        rule=rule,
        choice=float(thresholds[int(found.argmax())]),
        assumptions=(Assumption.INDEPENDENT,),
        n_canaries=len(ins) + len(outs),
    )
