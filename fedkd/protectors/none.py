"""No protection: knowledge leaves as the method made it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedkd.privacy.events import Event, Uncounted
from fedkd.protectors.base import Context, Protector, protectors
from fedkd.types import Knowledge


@protectors.register("none")
@dataclass(frozen=True)
class NoProtection(Protector):
    """No protection. Privacy: no formal guarantee."""

    def protect(self, knowledge: Knowledge, context: Context, *, rng: torch.Generator) -> Knowledge:
        """Return ``knowledge`` itself."""
        return knowledge

    def event(self, *, n_rows: int) -> Event:
        """Nothing bounds what the scores tell."""
        return Uncounted("scores leave as they are")
