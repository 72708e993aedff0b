"""The auditor's guesses in one run: which canaries it speaks about, and how many it got right.

A guess may be withheld where the attack is unsure. How many to make is fixed in advance, or chosen
on one half of the canaries and used on the other; ties always count against the auditor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedkd.audit.bounds import Assumption, Relation, Rule, scores_of
from fedkd.audit.exposure import Exposures
from fedkd.audit.intervals import Floats, Ints, lower_limit

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of the canaries to call member, and to call non-member, that a split tries."""


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """How an attack did on the canaries of one run.

    Attributes:
        n_canaries: all whose bit or secret was drawn at random, guessed at or not.
        made: guesses.
        correct: guesses that were right.
        alphabet: values a secret had, all equally likely; 2 for membership.
        relation: the change that turns one value into another.
        rule: how ``made`` was chosen.
        assumption: how the secrets were drawn.
    """

    n_canaries: int
    made: int
    correct: int
    alphabet: int = 2
    relation: Relation = Relation.ADD_OR_REMOVE
    rule: Rule = Rule.FIXED
    assumption: Assumption = Assumption.RANDOM_BITS

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.made <= self.n_canaries or self.made < 1:
            raise ValueError(
                f"{self.correct} right of {self.made} guesses about {self.n_canaries} canaries: "
                "give 0 <= correct <= made <= n_canaries, and made >= 1"
            )

    def all_right(self) -> Guesses:
        """Return the same number of guesses, all of them right."""
        return replace(self, correct=self.made)


def guess_membership(
    scores: ArrayLike, members: ArrayLike, *, n_positive: int, n_negative: int
) -> Guesses:
    """Return the guesses "the highest scores are members, the lowest are not".

    Args:
        scores: ``[n]``, higher means a likelier member.
        members: bool ``[n]``, each drawn by a fair coin of its own.
        n_positive: canaries called members, fixed in advance.
        n_negative: canaries called non-members, fixed in advance.
    """
    values, bits = _checked(scores, members)
    made = n_positive + n_negative
    if min(n_positive, n_negative) < 0 or not 1 <= made <= len(values):
        raise ValueError(
            f"{n_positive} positive and {n_negative} negative guesses about {len(values)} "
            "canaries: give 0 or more of each, and 1 to as many as there are together"
        )
    positive, negative = _right_guesses(values, bits)
    correct = int(positive[n_positive] + negative[n_negative])
    return Guesses(n_canaries=len(values), made=made, correct=correct)


def guess_membership_split(
    scores: ArrayLike, members: ArrayLike, *, rng: np.random.Generator, alpha: float = 0.05
) -> Guesses:
    """Return guesses on one random half of the canaries, their number chosen on the other half.

    Args:
        scores: ``[n >= 4]``, higher means a likelier member.
        members: bool ``[n]``, each drawn by a fair coin of its own.
        rng: draws the halves.
        alpha: of the bound that the choice is made for.
    """
    values, bits = _checked(scores, members, least=4)
    order = rng.permutation(len(values))
    picking, bounded = np.array_split(order, [len(values) // 2])
    up, down = _best_shares(values[picking], bits[picking], alpha=alpha)
    n = len(bounded)
    found = guess_membership(
        values[bounded],
        bits[bounded],
        n_positive=int(up * n),
        n_negative=int(down * n),
    )
    return replace(found, rule=Rule.SPLIT)


def guess_secrets(exposures: Exposures, confidence: ArrayLike, *, n_guesses: int) -> Guesses:
    """Return the guesses "the secret is the first-ranked candidate" where the attack is surest.

    Args:
        exposures: every canary; a rank of 1 is a right guess.
        confidence: ``[n]``, higher is surer; computed without knowing the secret, such as the gap
            between the two best losses.
        n_guesses: fixed in advance.
    """
    right = exposures.ranks == 1
    order = np.lexsort((right, -scores_of(confidence)))
    return Guesses(
        n_canaries=len(right),
        made=n_guesses,
        correct=int(right[order[:n_guesses]].sum()),
        alphabet=exposures.n_candidates,
        relation=Relation.REPLACE,
        assumption=Assumption.RANDOM_SECRETS,
    )


def _checked(
    scores: ArrayLike, members: ArrayLike, *, least: int = 1
) -> tuple[Floats, NDArray[np.bool_]]:
    values, bits = scores_of(scores, least=least), np.asarray(members)
    if bits.shape != values.shape or bits.dtype != np.bool_:
        raise ValueError(f"members {bits.dtype} {bits.shape}: give one bool for each score")
    return values, bits


def _right_guesses(scores: Floats, members: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return how many of the first 0, 1, ..., n positive, and negative, guesses are right."""
    down = np.lexsort((members, -scores))  # among equal scores non-members come first
    up = np.lexsort((~members, scores))  # and here members
    positive = np.concatenate([[0], np.cumsum(members[down])])
    return positive, np.concatenate([[0], np.cumsum(~members[up])])


def _best_shares(
    scores: Floats, members: NDArray[np.bool_], *, alpha: float
) -> tuple[float, float]:
    """Return the shares of positive and negative guesses whose lower limit of accuracy is best."""
    n = len(scores)
    counts = (np.array(SHARES) * n).astype(int)
    positive, negative = _right_guesses(scores, members)
    made = counts[:, None] + counts[None, :]
    correct = positive[counts][:, None] + negative[counts][None, :]
    accuracy = lower_limit(correct, np.maximum(made, 1), alpha=alpha)
    up, down = np.unravel_index(int(np.where(made > 0, accuracy, -1).argmax()), made.shape)
    return SHARES[up], SHARES[down]
