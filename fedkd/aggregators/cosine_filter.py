"""Mean of the uploads that point where most others point.

After the similarity filters for gradients, such as Cao et al. 2021,
https://arxiv.org/abs/2012.13995; the rule is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval

from fedkd.aggregators.ballots import Ballots, averaged, ballot, joined, spoken
from fedkd.aggregators.base import Aggregator, aggregators
from fedkd.aggregators.pairs import compared, only
from fedkd.types import Consensus, Knowledge, Space

TOP = 0.75
"""Uploads are compared with the one that a quarter of them agree better than: honest ones have it
even when attackers are almost half."""


@aggregators.register("cosine_filter")
@dataclass(frozen=True)
class CosineFilter(Aggregator[Ballots]):
    """Weighted mean of the uploads that agree with the others; who agrees far less is left out.

    Two uploads agree by the cosine of their scores on the rows that both kept; an upload agrees
    with the others by its median over them. An upload that shares no row with anybody is not
    judged and stays. Rows that only uploads left out had kept are absent.

    Attributes:
        least: agreement that an upload needs, as a share of the upper quartile of all uploads'.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset({Space.PROBS})
    leaves_out: ClassVar[bool] = True
    least: Annotated[float, Interval(ge=0, le=1)] = 0.65

    def partial(self, upload: Knowledge, *, n_rows: int) -> Ballots:
        """Keep one upload; ConfigError for logits."""
        return ballot(upload, n_rows=n_rows)

    def merge(self, left: Ballots, right: Ballots) -> Ballots:
        """Keep the uploads of both."""
        return joined(left, right)

    def finish(self, state: Ballots, *, rng: torch.Generator) -> Consensus:
        """Compare, leave out and average."""
        state = spoken(state)
        agreement = compared(state).cosines.nanmedian(dim=1).values
        needed = self.least * agreement.nanquantile(TOP)
        return averaged(only(state, ~(agreement < needed)))
