"""A little is enough: a lie within the spread of honest clients, the same from every adversary.

Baruch et al.: A Little Is Enough, 2019, https://arxiv.org/abs/1902.06156. There for gradients,
whose mean and spread the adversaries estimate from their own honest ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge

from fedkd.adversaries.base import (
    AdversaryClient,
    Clients,
    Strength,
    Surroundings,
    adversaries,
    believed,
    probabilities,
    saying,
)
from fedkd.simplex import project
from fedkd.types import Knowledge


@adversaries.register("alie")
@dataclass(frozen=True)
class Alie(AdversaryClient):
    """The consensus moved up by some standard deviations of honest clients, as probabilities.

    The spread is estimated from one sample: how far the adversary's own honest probabilities are
    from the last consensus, class by class and row by row. What is moved is projected to the
    nearest probabilities. Knows the last consensus and its own model; rows that are not in the
    consensus, and all in round 1, are honest.

    Attributes:
        clients: how many are adversaries, the last ones, or which by id.
        strength: share of its rows that are poisoned.
        deviations: how many standard deviations.
    """

    clients: Clients = 1
    strength: Strength = 1.0
    deviations: Annotated[float, Ge(0)] = 1.5

    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Move the mean."""
        mean = believed(upload, surroundings.consensus)
        spread = (probabilities(upload.scores, upload.space) - mean).abs()
        return saying(upload, project(mean + self.deviations * spread))
