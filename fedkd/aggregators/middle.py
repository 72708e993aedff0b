"""Medians and sorting with weights, over the keepers of many rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1e-12
"""Half of the weight is reached within this share of it: sums of weights are rounded."""


def equal_weights(weights: Tensor) -> bool:
    """Return whether a row's keepers all weigh the same, in ``[rows, keepers, ...]``."""
    return bool((weights == weights[:, :1]).all())


def ranked(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of each row and class in ascending order, and the weights that go along.

    Equal values stand in the order of their weights, so that the order of keepers is irrelevant.

    Args:
        values: ``[rows, keepers, classes]``.
        weights: ``[rows, keepers]``.
    """
    if equal_weights(weights):
        return values.sort(dim=1).values, weights[:, :, None].expand_as(values)
    order = weights.argsort(dim=1)
    values = values.gather(1, order[:, :, None].expand_as(values))
    ascending, places = values.sort(dim=1, stable=True)
    spread = weights.gather(1, order)[:, :, None].expand_as(values)
    return ascending, spread.gather(1, places)


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Return the middle of the lower and the upper weighted median, ``[rows, classes]``.

    With equal weights, the ordinary median: the middle value, or the mean of the middle two.

    Args:
        values: ``[rows, keepers, classes]``.
        weights: ``[rows, keepers]``, positive.
    """
    n_keepers = values.shape[1]
    ascending, weights = ranked(values, weights)
    if equal_weights(weights):
        return (ascending[:, (n_keepers - 1) // 2] + ascending[:, n_keepers // 2]) / 2
    reached = weights.cumsum(dim=1)
    half = reached[:, -1:] / 2
    lower = (reached < half * (1 - SLACK)).sum(dim=1, keepdim=True)
    upper = (reached <= half * (1 + SLACK)).sum(dim=1, keepdim=True)
    last = torch.full_like(lower, n_keepers - 1)
    low = ascending.gather(1, torch.minimum(lower, last))
    high = ascending.gather(1, torch.minimum(upper, last))
    return ((low + high) / 2)[:, 0]
