"""Mean of the uploads that have most others near them.

Multi-Krum of Blanchard et al.: Machine Learning with Adversaries, NeurIPS 2017,
https://arxiv.org/abs/1703.02757, in the form of Farhadkhani et al. 2022: an upload's score is its
distance to its n - f nearest, itself among them. There for gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from fedkd.aggregators.ballots import Ballots, averaged, ballot, joined, spoken
from fedkd.aggregators.base import Aggregator, aggregators
from fedkd.aggregators.pairs import compared, only
from fedkd.aggregators.trimmed_mean import at_most
from fedkd.types import Consensus, Knowledge, Space

ALIKE = 1e-9
"""Scores closer than this share of them are equal: sums of distances are rounded."""


@aggregators.register("multikrum")
@dataclass(frozen=True)
class MultiKrum(Aggregator[Ballots]):
    """Weighted mean of the n - f uploads whose nearest others are nearest; the rest is left out.

    Distances are means over the rows that both kept. Two uploads without such a row count as far
    from each other as two uploads usually are, and an upload that shares no row with anybody is
    not judged and stays. Among the n that are judged, f = ceil(share n), but no more than
    n >= 2 f + 3 allows: with four uploads or fewer, all are averaged. Rows that only uploads left
    out had kept are absent.

    Attributes:
        share: of the uploads that may be anything; 0 leaves nothing out.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset({Space.PROBS})
    leaves_out: ClassVar[bool] = True
    share: Annotated[float, Interval(ge=0, lt=0.5)] = 0.3

    def partial(self, upload: Knowledge, *, n_rows: int) -> Ballots:
        """Keep one upload; ConfigError for logits."""
        return ballot(upload, n_rows=n_rows)

    def merge(self, left: Ballots, right: Ballots) -> Ballots:
        """Keep the uploads of both."""
        return joined(left, right)

    def finish(self, state: Ballots, *, rng: torch.Generator) -> Consensus:
        """Score, leave out and average."""
        state = spoken(state)
        pairs = compared(state)
        judged = pairs.judged()
        n = int(judged.sum())
        f = min(at_most(self.share, n), (n - 3) // 2)
        if f < 1:
            return averaged(state)
        scores = _krum(pairs.distances[judged][:, judged], nearest=n - f - 1)
        kept = torch.ones_like(judged)
        kept[judged] = scores <= scores.kthvalue(n - f).values * (1 + ALIKE)
        return averaged(only(state, kept))


def _krum(distances: Tensor, *, nearest: int) -> Tensor:
    """Return each upload's summed distance to its nearest others, ``[uploads]``.

    Unknown distances become the median of the known ones: few that speak about rows of their own
    would otherwise be near to nobody but each other, and so look best.
    """
    filled = distances.where(~distances.isnan(), distances.nanmedian()).fill_diagonal_(torch.inf)
    return filled.topk(nearest, dim=1, largest=False, sorted=True).values.sum(dim=1)
