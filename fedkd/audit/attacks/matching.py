"""Members and non-members with the same share of every class, so that a class is no membership.

A client's members differ from the test set by class; unmatched, any score that only tells classes
apart would pass for a membership attack.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fedkd.training.steps import Examples


def matched(
    members: Examples,
    nonmembers: Examples,
    *,
    rng: np.random.Generator,
    most: int = 500,
) -> tuple[Examples, Examples]:
    """Return random members and non-members, in every class as many members a non-member.

    Classes that only one side has are left out; sequences, which have no class, are all alike.

    Args:
        members: examples of one client.
        nonmembers: examples nobody trained on.
        rng: draws them.
        most: examples of either side at most, but one a class at least.
    """
    ours, theirs = _groups(members), _groups(nonmembers)
    shared = np.intersect1d(ours, theirs)
    pools = [
        [rng.permutation(np.flatnonzero(side == c)) for side in (ours, theirs)] for c in shared
    ]
    pairs = [min(len(mine), len(other)) for mine, other in pools]
    share = min(1.0, most / max(1, sum(pairs)))
    pairs = [max(1, int(share * n)) for n in pairs]
    ratio = min((len(mine) // n for (mine, _), n in zip(pools, pairs, strict=True)), default=1)
    ratio = max(1, min(ratio, most // max(1, sum(pairs))))
    chosen = [mine[: ratio * n] for (mine, _), n in zip(pools, pairs, strict=True)]
    others = [other[:n] for (_, other), n in zip(pools, pairs, strict=True)]
    return _taken(members, chosen), _taken(nonmembers, others)


def alike(
    sides: Mapping[int, tuple[Examples, Examples]], *, rng: np.random.Generator
) -> dict[int, tuple[Examples, Examples]]:
    """Return matched sides with as many members a non-member in every client.

    Scores of several clients are pooled, and clients differ in how high they score. A client with
    more members a non-member than another would raise, or lower, the members' scores for nothing.
    """
    ratios = [len(mine) // len(others) for mine, others in sides.values() if len(others)]
    least = max(1, min(ratios, default=1))
    return {
        client: matched(mine, others, rng=rng, most=least * len(others))
        for client, (mine, others) in sides.items()
    }


def _groups(examples: Examples) -> np.ndarray:
    """Return the class of every example, int64 ``[n]``; one class for all sequences."""
    labels = examples.labels.cpu().numpy()
    return labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)


def _taken(examples: Examples, positions: list[np.ndarray]) -> Examples:
    taken = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *positions]))
    at = torch.from_numpy(taken).to(examples.inputs.device)
    return Examples(inputs=examples.inputs[at], labels=examples.labels[at])
