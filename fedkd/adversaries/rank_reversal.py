"""Honest confidence, upside down.

After FDLA, the logits poisoning of Tang et al. 2024, https://arxiv.org/abs/2401.03685, which
shuffles confidence among classes so that wrong ones come out on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedkd.adversaries.base import (
    AdversaryClient,
    Clients,
    Strength,
    Surroundings,
    adversaries,
    probabilities,
    saying,
)
from fedkd.types import Knowledge


@adversaries.register("rank_reversal")
@dataclass(frozen=True)
class RankReversal(AdversaryClient):
    """Its own probabilities in reversed order: the likeliest class gets the smallest, and so on.

    Every row has the values of an honest one, so no look at confidence tells. Knows its own
    model alone.

    Attributes:
        clients: how many are adversaries, the last ones, or which by id.
        strength: share of its rows that are poisoned.
    """

    clients: Clients = 1
    strength: Strength = 1.0

    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Reverse every row's order."""
        ascending, classes = probabilities(upload.scores, upload.space).sort(dim=1)
        return saying(upload, torch.zeros_like(ascending).scatter(1, classes, ascending.flip(1)))
