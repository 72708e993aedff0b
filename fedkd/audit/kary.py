"""From exposure to a certified epsilon: how often the true secret is among the top of k.

If a secret is uniform over k candidates, then under epsilon-DP for replacing its record it is among
the auditor's top s with probability at most q = s e^epsilon / (s e^epsilon + k - s), whatever the
other canaries did, so successes are dominated by Binomial(n, q).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedkd.audit.bounds import Assumption, EpsilonBound, Relation, Rule
from fedkd.audit.exposure import Exposures
from fedkd.audit.intervals import Floats, lower_limit


def success_rate(epsilon: float, n_candidates: int, *, top: int = 1) -> float:
    """Return q, the largest chance that epsilon-DP leaves of a true secret among the top."""
    odds = np.exp(epsilon) * top / (n_candidates - top)
    return float(odds / (1 + odds))


def kary_epsilon(
    successes: ArrayLike,
    trials: ArrayLike,
    *,
    n_candidates: int,
    top: int = 1,
    delta: float = 0.0,
    alpha: float = 0.05,
) -> Floats:
    """Return the replace-one epsilon certified by so many successes, at least 0. Broadcasts.

    With delta, a canary's chance of success may exceed q, by an excess that adds at most
    delta (k - 1) / (k - s) expected successes. That it adds any among n canaries has at most n
    times this probability (Markov), which is taken from ``alpha``. When nothing remains the bound
    is 0: use fewer canaries or a smaller delta.

    Args:
        successes: canaries whose true secret was among the ``top``.
        trials: all canaries; none may be left out by looking at the result.
        n_candidates: k, secrets each was uniform over.
        top: s, fixed in advance.
        delta: of the guarantee that is bounded.
        alpha: chance of a wrong bound.
    """
    if not 1 <= top < n_candidates:
        raise ValueError(f"top {top} of {n_candidates} candidates: give 1 <= top < candidates")
    n = np.asarray(trials, float)
    left = alpha - n * delta * (n_candidates - 1) / (n_candidates - top)
    low = lower_limit(successes, n, alpha=np.maximum(left, 1e-300))
    odds = low / (1 - low) * (n_candidates - top) / top
    return np.where(left > 0, np.log(np.maximum(odds, 1.0)), 0.0)


def kary_bound(
    exposures: Exposures,
    *,
    tops: Sequence[int] = (1,),
    delta: float = 0.0,
    alpha: float = 0.05,
) -> EpsilonBound:
    """Return the epsilon that the ranks of all canaries certify, for replacing one record.

    The best of ``tops``, each at alpha / how many. Ties counted against the canary only lower it.
    References serve as candidates too, if the secret and they were drawn alike.

    Args:
        exposures: every canary of the design.
        tops: the ranks that count as success, fixed in advance.
        delta: of the guarantee that is bounded.
        alpha: chance of a wrong bound.
    """
    n, k = len(exposures.ranks), exposures.n_candidates
    if not n or not len(tops):
        raise ValueError(f"{n} canaries, tops {list(tops)}: give at least one of each")
    share = alpha / len(tops)

    def certify(successes: Sequence[int]) -> list[float]:
        return [
            float(kary_epsilon(count, n, n_candidates=k, top=top, delta=delta, alpha=share))
            for count, top in zip(successes, tops, strict=True)
        ]

    found = certify([int((exposures.ranks <= top).sum()) for top in tops])
    best = int(np.argmax(found))
    return EpsilonBound(
        epsilon=found[best],
        ceiling=max(certify([n] * len(tops))),
        delta=delta,
        confidence=1 - alpha,
        relation=Relation.REPLACE,
        rule=Rule.FIXED if len(tops) == 1 else Rule.BONFERRONI,
        choice=tops[best],
        assumptions=(Assumption.RANDOM_SECRETS,),
        n_canaries=n,
    )
