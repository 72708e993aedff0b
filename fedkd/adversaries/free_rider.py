"""It takes part and contributes nothing: what it sends costs no example and no training."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from fedkd.adversaries.base import (
    AdversaryClient,
    Clients,
    Strength,
    Surroundings,
    adversaries,
    believed,
    saying,
)
from fedkd.types import Knowledge


class Sends(StrEnum):
    """What a free rider sends."""

    CONSENSUS = "consensus"
    """The last consensus, as if it agreed; noise about rows that are not in it."""
    NOISE = "noise"
    """Random probabilities."""


@adversaries.register("free_rider")
@dataclass(frozen=True)
class FreeRider(AdversaryClient):
    """Sends back the last consensus, or random probabilities, for the rows its filter kept.

    Knows the last consensus alone. (A simulation trains its model all the same, to measure it.)

    Attributes:
        clients: how many are adversaries, the last ones, or which by id.
        strength: share of its rows that are made up.
        sends: what instead; in round 1 always noise.
    """

    clients: Clients = 1
    strength: Strength = 1.0
    sends: Sends = Sends.CONSENSUS

    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Make scores up."""
        noise = saying(upload, _noise(len(upload), surroundings.n_classes, rng=rng, like=upload))
        if self.sends is Sends.NOISE:
            return noise
        return saying(upload, believed(noise, surroundings.consensus))


def _noise(n: int, n_classes: int, *, rng: torch.Generator, like: Knowledge) -> Tensor:
    """Return rows drawn evenly from all probabilities, ``[n, classes]``."""
    drawn = torch.empty(n, n_classes, dtype=torch.float64).exponential_(generator=rng)
    return (drawn / drawn.sum(dim=1, keepdim=True)).float().to(like.rows.device)
