"""How sure the model is: what it has memorized it is usually surest of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.protectors.base import Context
from fedkd.scorers.base import Scorer, scorers
from fedkd.types import Knowledge


@scorers.register("confidence")
@dataclass(frozen=True)
class Confidence(Scorer):
    """The largest probability, 0 when all classes are equal and 1 when one has everything."""

    def likelihood(self, knowledge: Knowledge, context: Context) -> Tensor:
        """Return (max p - 1/C) / (1 - 1/C), from the softmax at temperature 1."""
        n_classes = knowledge.scores.shape[1]
        surest = torch.softmax(knowledge.scores, dim=1).amax(dim=1)
        return ((n_classes * surest - 1) / max(1, n_classes - 1)).clamp(0, 1)
