"""How far the client's answer lies from the last consensus: what only it knows stands out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from fedkd.protectors.base import Context
from fedkd.scorers.base import Scorer, scorers
from fedkd.scorers.peers import beside, spread
from fedkd.types import Knowledge


@scorers.register("peer_gap")
@dataclass(frozen=True)
class PeerGap(Scorer):
    """1 - exp(-KL(own || consensus) / scale), both at the temperature of the consensus.

    Clients are not told who kept a row. A row that only this client keeps is compared with its
    own last answer, so it looks harmless from round 2 on: with filters that leave most rows one
    keeper, use another scorer.

    Attributes:
        scale: the divergence in nats at which the likelihood is .63.
        unknown: likelihood of rows without a consensus, such as all rows of round 1. 1 protects
            what cannot be judged most; 0 leaves it to plain distillation.
    """

    scale: Annotated[float, Gt(0)] = 1.0
    unknown: Annotated[float, Interval(ge=0, le=1)] = 1.0

    def likelihood(self, knowledge: Knowledge, context: Context) -> Tensor:
        """Return the squashed divergence, ``unknown`` where there is no consensus."""
        both = beside(knowledge, context.consensus)
        least = torch.finfo(both.own.dtype).tiny  # a consensus may hold zeros
        ratio = both.own.clamp(min=least).log() - both.peers.clamp(min=least).log()
        divergence = (both.own * ratio).sum(dim=1).clamp(min=0)
        return spread(-torch.expm1(-divergence / self.scale), both.known, unknown=self.unknown)
