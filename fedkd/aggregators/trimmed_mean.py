"""Mean of a row's keepers without the largest and smallest probabilities of each class.

The coordinate-wise rule of Yin et al.: Byzantine-Robust Distributed Learning, 2018,
https://arxiv.org/abs/1803.01498. There for gradients; weights and renormalization are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from fedkd.aggregators.ballots import Ballots, Block, ballot, decided, joined, normalized
from fedkd.aggregators.base import Aggregator, aggregators
from fedkd.aggregators.middle import ranked
from fedkd.types import Consensus, Knowledge, Space


@aggregators.register("trimmed_mean")
@dataclass(frozen=True)
class TrimmedMean(Aggregator[Ballots]):
    """Weighted mean of each class's middle probabilities, scaled so that a row sums to one.

    Of a row's n keepers, ceil(share n) are cut off at either end, counted by heads and not by
    weight, and never so many that nobody is left: one or two keepers are averaged, three or four
    give their median.

    Attributes:
        share: of a row's keepers that may be anything; 0 cuts nothing.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset({Space.PROBS})
    share: Annotated[float, Interval(ge=0, lt=0.5)] = 0.3

    def partial(self, upload: Knowledge, *, n_rows: int) -> Ballots:
        """Keep one upload; ConfigError for logits."""
        return ballot(upload, n_rows=n_rows)

    def merge(self, left: Ballots, right: Ballots) -> Ballots:
        """Keep the uploads of both."""
        return joined(left, right)

    def finish(self, state: Ballots, *, rng: torch.Generator) -> Consensus:
        """Cut and average."""
        return decided(state, self._middles)

    def _middles(self, block: Block) -> Tensor:
        n_keepers = block.scores.shape[1]
        cut = min(at_most(self.share, n_keepers), (n_keepers - 1) // 2)
        ascending, weights = ranked(block.scores, block.weights)
        kept = slice(cut, n_keepers - cut)
        total = (ascending[:, kept] * weights[:, kept]).sum(dim=1)
        return normalized(total / weights[:, kept].sum(dim=1), block)


def at_most(share: float, n: int) -> int:
    """Return how many of ``n`` clients a share of them is, rounded up but not for rounding's sake.

    0.3 of 10 is 3, of 11 is 4.
    """
    return ceil(share * n - 1e-9)
