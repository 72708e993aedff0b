"""Many clients, one voice: all adversaries send the same upload, about every row.

The attack that FoolsGold looks for, Fung et al. 2018, https://arxiv.org/abs/1808.04866.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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


@adversaries.register("sybil")
@dataclass(frozen=True)
class Sybil(AdversaryClient):
    """The last consensus with every class called by another one's name, from every adversary.

    Names are moved on by one number that the adversaries drew before the run. Rows that are not
    in the consensus, and all in round 1, get a random class. It speaks about every row that is
    asked, whatever its filter kept, so that the copies agree to the bit without a word during
    the round. Knows the last consensus alone.

    Attributes:
        clients: how many are adversaries, the last ones, or which by id.
        strength: share of the rows that are poisoned.
    """

    colludes: ClassVar[bool] = True
    clients: Clients = 1
    strength: Strength = 1.0

    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Rename every class."""
        n_classes, rows = surroundings.n_classes, surroundings.rows.to(upload.rows.device)
        step = int(torch.randint(1, max(2, n_classes), (1,), generator=rng))
        drawn = torch.randint(n_classes, (len(rows),), generator=rng).to(rows.device)
        start = saying(upload, one_hot(drawn, n_classes=n_classes), rows=rows)
        named = believed(start, surroundings.consensus).roll(step, dims=1)
        return saying(upload, named, rows=rows)
