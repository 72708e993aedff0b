"""The nearest probabilities to any row of numbers: Euclidean projection on the simplex."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-3
"""How far from one a row that is taken for probabilities may sum to."""


def project(rows: Tensor) -> Tensor:
    """Return the nearest point of the probability simplex to each finite row, ``[n, classes]``.

    Exact: one number is taken from every class and what falls below zero becomes zero, so the
    order of classes stays. Found by sorting, after Held, Wolfe & Crowder 1974.
    """
    rows = rows - rows.amax(dim=1, keepdim=True)  # the same point is nearest; only [-1, 0] matters
    descending = rows.sort(dim=1, descending=True).values
    counts = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype, device=rows.device)
    excess = (descending.cumsum(dim=1) - 1) / counts
    last = (descending > excess).sum(dim=1, keepdim=True) - 1
    return (rows - excess.gather(1, last)).clamp(min=0)


def moved_mass(rows: Tensor) -> Tensor:
    """Return how much probability :func:`project` moves between the classes of each row, ``[n]``.

    It is what lies below zero once the row is shifted to sum to one, and half the L1 distance
    from there to the projection. A convex function of the row, alike in all classes.
    """
    shifted = rows + (1 - rows.sum(dim=1, keepdim=True)) / rows.shape[1]
    return -shifted.clamp(max=0).sum(dim=1)
