"""Old news: it sends what it sent before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkd.adversaries.base import AdversaryClient, Clients, Strength, Surroundings, adversaries
from fedkd.types import Knowledge


@adversaries.register("replay")
@dataclass(frozen=True)
class Replay(AdversaryClient):
    """Sends its upload of the first round it took part in, every round anew.

    The upload is in the envelope of the present round, so no token gives it away; what is old is
    what it says. Knows nothing else. Where a round asks about some rows only, old rows that were
    not asked about are left out.

    Attributes:
        clients: how many are adversaries, the last ones, or which by id.
        strength: share of the old rows that are sent.
    """

    remembers: ClassVar[bool] = True
    clients: Clients = 1
    strength: Strength = 1.0

    def forge(
        self, upload: Knowledge, surroundings: Surroundings, *, rng: torch.Generator
    ) -> Knowledge:
        """Send what was first sent; in that round, ``upload``."""
        old = surroundings.earlier
        if old is None:
            return upload
        asked = torch.isin(old.rows, surroundings.rows.to(old.rows.device))
        return Knowledge(
            rows=old.rows[asked],
            scores=old.scores[asked],
            weights=old.weights[asked],
            space=upload.space,
            temperature=upload.temperature,
        )
