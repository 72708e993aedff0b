"""How close a proxy row lies to the client's private examples: it reads them to say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.protectors.base import Context
from fedkd.scorers.base import Scorer, scorers
from fedkd.types import Knowledge

CHUNK = 1024
"""Rows whose distances to all private examples are held at a time."""


@scorers.register("density")
@dataclass(frozen=True)
class Density(Scorer):
    """Closeness to the private examples: 1 for one of them, 1/2 at their typical distance.

    Privacy: reads private examples past the model, so not even DP-SGD covers what it lets through.
    """

    reads_private: ClassVar[bool] = True

    def likelihood(self, knowledge: Knowledge, context: Context) -> Tensor:
        """Return the closeness; ConfigError where the client offers none."""
        if context.closeness is None:
            raise ConfigError(
                "scorer: density reads private examples, but the client gives no access to them "
                "here; use a scorer that reads the model's scores, such as confidence"
            )
        return context.closeness().to(knowledge.scores.device)[knowledge.rows]


def closeness(private: Tensor, proxy: Tensor) -> Tensor:
    """Return 2^(-d / m): d to the nearest private example, m the median of that among themselves.

    Args:
        private: float32 ``[n, d]``, features of the private examples.
        proxy: float32 ``[m, d]``, features of the proxy set.

    Returns:
        float32 ``[m]`` in [0, 1]; ones where fewer than two private examples give no scale.
    """
    if len(private) < 2:
        return proxy.new_ones(len(proxy))
    typical = _smallest(private, private, k=2)[:, 1].median()  # the nearest one is itself
    distances = _smallest(proxy, private, k=1)[:, 0]
    return torch.exp2(-distances / typical.clamp(min=1e-6))


def _smallest(points: Tensor, others: Tensor, *, k: int) -> Tensor:
    # Exact differences: the faster matrix product puts a row at a small distance from itself.
    exact = "donot_use_mm_for_euclid_dist"
    parts = [torch.cdist(part, others, compute_mode=exact) for part in points.split(CHUNK)]
    return torch.cat([part.topk(k, dim=1, largest=False).values for part in parts])
