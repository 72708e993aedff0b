"""How much surer the client is of its answer than others are, ranked among the proxy rows.

The pairwise ratio of RMIA, Zarifzadeh et al. 2024, https://arxiv.org/abs/2312.03262. RMIA trains
reference models; the last consensus takes their place here, which is our choice.
"""

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


@scorers.register("reference_ratio")
@dataclass(frozen=True)
class ReferenceRatio(Scorer):
    """Share of the client's proxy rows z with r(x) / r(z) > gamma.

    r(x) = p(y|x) / ((1 + a) / 2 * q(y|x) + (1 - a) / 2), with p the client, q the consensus, both
    at the temperature of the consensus, and y the client's own answer, since proxy rows have no
    label. A rank: about half of the rows score above .5 whatever the model. As in ``peer_gap``,
    a row that only this client keeps is compared with its own last answer.

    Attributes:
        gamma: how many times surer than about another row.
        a: how far the consensus is trusted to be a reference that never saw the row; 1 fully.
        unknown: likelihood of rows without a consensus, such as all rows of round 1, and of a row
            with no other to be ranked against. 1 protects what cannot be judged most.
    """

    gamma: Annotated[float, Gt(0)] = 1.0
    a: Annotated[float, Interval(ge=0, le=1)] = 0.3
    unknown: Annotated[float, Interval(ge=0, le=1)] = 1.0

    def likelihood(self, knowledge: Knowledge, context: Context) -> Tensor:
        """Return the ranks, ``unknown`` where there is no consensus."""
        both = beside(knowledge, context.consensus)
        own, answer = both.own.max(dim=1)
        reference = both.peers.gather(1, answer[:, None])[:, 0]
        ratio = own / ((1 + self.a) / 2 * reference + (1 - self.a) / 2).clamp(min=1e-6)
        if len(ratio) < 2:
            return spread(torch.full_like(ratio, self.unknown), both.known, unknown=self.unknown)
        below = torch.searchsorted(ratio.sort().values, ratio / self.gamma)
        share = (below.to(ratio.dtype) / (len(ratio) - 1)).clamp(max=1)
        return spread(share, both.known, unknown=self.unknown)
