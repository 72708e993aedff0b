"""Data poisoning: honest training on labels that are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.adversaries.base import AdversaryClient, Clients, Strength, Surroundings, adversaries
from fedkd.types import Knowledge


@adversaries.register("label_flip")
@dataclass(frozen=True)
class LabelFlip(AdversaryClient):
    """Trains on flipped labels, class c as n_classes - 1 - c, and then follows the protocol.

    Its filter is fitted to the flipped labels too. Knows nothing but its own examples.

    Attributes:
        clients: how many are adversaries, the last ones, or which by id.
        strength: chance of each label to be flipped, drawn once.
    """

    clients: Clients = 1
    strength: Strength = 1.0

    def poison_labels(self, labels: Tensor, *, n_classes: int, rng: torch.Generator) -> Tensor:
        """Flip each label with probability ``strength``."""
        flipped = torch.rand(labels.shape, generator=rng).to(labels.device) < self.strength
        return torch.where(flipped, n_classes - 1 - labels, labels)

    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Return ``upload`` itself: the model is what is poisoned."""
        return upload
