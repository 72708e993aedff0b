"""Sure of the least likely class: the largest loss that probabilities can cause.

LMA of Roux et al.: On the Byzantine-Resilience of Distillation-Based Federated Learning, 2024,
https://arxiv.org/abs/2402.12265. Theirs knows the honest clients' mean of the same round.
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
    believed,
    one_hot,
    saying,
)
from fedkd.types import Knowledge


@adversaries.register("loss_maximisation")
@dataclass(frozen=True)
class LossMaximisation(AdversaryClient):
    """One-hot rows on the class that the last consensus finds least likely (LMA).

    Knows the last consensus; of rows that are not in it, and in round 1, its own predictions.
    It speaks about the rows that its filter kept.

    Attributes:
        clients: how many are adversaries, the last ones, or which by id.
        strength: share of its rows that are poisoned.
    """

    clients: Clients = 1
    strength: Strength = 1.0

    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Be sure of the least likely class."""
        worst = believed(upload, surroundings.consensus).argmin(dim=1)
        return saying(upload, one_hot(worst, n_classes=surroundings.n_classes))
