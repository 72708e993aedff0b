"""Fixed-point numbers modulo 2^32: what masked sums are made of, the same on both sides.

Values in [0, 1] become whole steps. Sums of steps are exact, and a pad of uniform 32-bit words
hides a summand perfectly; floats can do neither.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.aggregators.base import Sums
from fedkd.types import Space

Words = NDArray[np.uint32]
"""Unsigned 32-bit words, which wrap around when they are added."""

WORD_BITS = 32
MOST_MEMBERS = 2**16
"""Beyond this many members a step would be coarser than 1.5e-5."""
FINE = 1024
"""A row is summed only where its keepers' mean weight is this many steps, so that rounding moves
no mean by more than 0.1 %. Only density weights below a few millionths ever fall under it."""


def steps_per_unit(n_members: int) -> int:
    """Return how many steps make 1: the largest power of two whose ``n_members`` cannot wrap.

    Raises:
        ValueError: no members, or too many for a useful step.
    """
    if not 1 <= n_members <= MOST_MEMBERS:
        raise ValueError(f"{n_members} members of a masked sum; give 1 to {MOST_MEMBERS}")
    return 1 << (WORD_BITS - n_members.bit_length())


def to_words(values: Tensor, *, n_members: int) -> Words:
    """Return ``values`` as whole steps, rounded half to even; ValueError outside [0, 1]."""
    exact = values.detach().cpu().double()
    if not bool(((exact >= 0) & (exact <= 1)).all()):
        raise ValueError("values outside [0, 1] cannot enter a masked sum; send probabilities")
    return torch.round(exact * steps_per_unit(n_members)).numpy().astype(np.uint32)


def added(parts: Iterable[Words]) -> Words:
    """Return the sum of some parts of one shape modulo 2^32, in which pads cancel."""
    first, *others = parts
    total = first.copy()
    for part in others:
        total += part
    return total


def sums_from(
    words: Words, *, rows: Tensor, counts: Tensor, n_members: int, temperature: float
) -> Sums:
    """Return the sums that an aggregator finishes; rows that were not summed hold zeros.

    Every number is within ``n_members / (2 steps_per_unit)`` of the exact sum.

    Args:
        words: ``[n, classes + 1]``, the sum of all members' weighted scores and weights.
        rows: int64 ``[n]``, the proxy rows they are about.
        counts: int64 ``[proxy]``, how many members kept each row.
        n_members: among how many it was taken.
        temperature: what the members softened with.
    """
    step = 1 / steps_per_unit(n_members)
    values = torch.from_numpy(words.astype(np.float64)) * step
    clear = values[:, -1] >= FINE * step * counts[rows]
    rows, values = rows[clear], values[clear]
    scores = torch.zeros(len(counts), values.shape[1] - 1, dtype=torch.float64)
    mass = torch.zeros(len(counts), dtype=torch.float64)
    keepers = torch.zeros_like(counts)
    scores[rows], mass[rows], keepers[rows] = values[:, :-1], values[:, -1], counts[rows]
    return Sums(
        scores=scores, mass=mass, keepers=keepers, space=Space.PROBS, temperature=temperature
    )
