"""Sure of the runner-up: wrong, and as near to right as wrong can be."""

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


@adversaries.register("second_class")
@dataclass(frozen=True)
class SecondClass(AdversaryClient):
    """One-hot rows on the class that the last consensus finds second most likely.

    Few such rows turn the winner, and they look less odd than any other lie. Knows the last
    consensus; of rows that are not in it, and in round 1, its own predictions.

    Attributes:
        clients: how many are adversaries, the last ones, or which by id.
        strength: share of its rows that are poisoned.
    """

    clients: Clients = 1
    strength: Strength = 1.0

    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Be sure of the runner-up."""
        second = believed(upload, surroundings.consensus).topk(2, dim=1).indices[:, 1]
        return saying(upload, one_hot(second, n_classes=surroundings.n_classes))
