"""The nearest probabilities to any row of numbers: Euclidean projection on the simplex."""

from __future__ import annotations

import torch
from torch import Tensor


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
