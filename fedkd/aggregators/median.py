"""Median of a row's keepers, class by class.

The coordinate-wise rule of Yin et al.: Byzantine-Robust Distributed Learning, 2018,
https://arxiv.org/abs/1803.01498. There for gradients; weights and renormalization are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.aggregators.ballots import Ballots, Block, ballot, decided, joined, normalized
from fedkd.aggregators.base import Aggregator, aggregators
from fedkd.aggregators.middle import weighted_median
from fedkd.types import Consensus, Knowledge, Space


@aggregators.register("median")
@dataclass(frozen=True)
class Median(Aggregator[Ballots]):
    """Weighted median of each class's probability, scaled so that a row sums to one.

    Up to half of a row's weight may be anything. With one or two keepers of equal weight it is
    their mean. Where most keepers are sure and no two agree, every median is zero, and the mean
    stands in.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset({Space.PROBS})

    def partial(self, upload: Knowledge, *, n_rows: int) -> Ballots:
        """Keep one upload; ConfigError for logits."""
        return ballot(upload, n_rows=n_rows)

    def merge(self, left: Ballots, right: Ballots) -> Ballots:
        """Keep the uploads of both."""
        return joined(left, right)

    def finish(self, state: Ballots, *, rng: torch.Generator) -> Consensus:
        """Take the medians."""
        return decided(state, _medians)


def _medians(block: Block) -> Tensor:
    return normalized(weighted_median(block.scores, block.weights), block)
