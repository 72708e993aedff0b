"""Scores multiplied: what no average of raw logits survives, and probabilities bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedkd.adversaries.base import (
    FLOOR,
    AdversaryClient,
    Clients,
    Strength,
    Surroundings,
    adversaries,
    saying,
)
from fedkd.types import LOGIT_LIMIT, Knowledge, Space


@adversaries.register("scaled_logits")
@dataclass(frozen=True)
class ScaledLogits(AdversaryClient):
    """Its own logits times a factor, kept within the largest logit that crosses.

    Where probabilities travel, theirs: a large negative factor makes rows that are sure of the
    class the adversary finds least likely. Knows its own model alone.

    Attributes:
        clients: how many are adversaries, the last ones, or which by id.
        strength: share of its rows that are poisoned.
        factor: 1 changes nothing but roundings.
    """

    clients: Clients = 1
    strength: Strength = 1.0
    factor: float = -1000.0

    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Scale."""
        if upload.space is Space.LOGITS:
            scaled = (upload.scores.float() * self.factor).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            return Knowledge(
                rows=upload.rows,
                scores=scaled,
                weights=torch.ones_like(upload.weights),
                space=Space.LOGITS,
            )
        logits = upload.scores.float().clamp(min=FLOOR).log()
        return saying(upload, (logits * self.factor).softmax(dim=1))
