"""Mean in which an upload counts less, the farther it lies from its rows' medians.

After ExpGuard of Roux et al.: On the Byzantine-Resilience of Distillation-Based Federated
Learning, 2024, https://arxiv.org/abs/2402.12265: exponential weights over accumulated outlier
scores. Theirs accumulate over rounds, ours over the rows of one round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from fedkd.aggregators.ballots import (
    Ballots,
    averaged,
    ballot,
    blocks,
    joined,
    normalized,
    spoken,
)
from fedkd.aggregators.base import Aggregator, aggregators
from fedkd.aggregators.middle import weighted_median
from fedkd.types import Consensus, Knowledge, Space

JUDGES = 3
"""Rows with fewer keepers say nothing about who of them is the outlier."""
LEAST = 1e-6
"""What is left of an upload's weight at least, so that a row only it kept is still answered."""


@aggregators.register("outlier_weights")
@dataclass(frozen=True)
class OutlierWeights(Aggregator[Ballots]):
    """Weighted mean; an upload's weight falls exponentially with its outlier score.

    The score is the mean distance (total variation) of its rows from the medians of their
    keepers, over the rows with three keepers or more; an upload without such a row is not judged.
    Scores up to the median upload's cost nothing. Nothing is remembered between rounds.

    Attributes:
        sharpness: an upload with twice the median score is worth exp(-sharpness) of one; 0 is the
            mean.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset({Space.PROBS})
    sharpness: Annotated[float, Ge(0)] = 5.0

    def partial(self, upload: Knowledge, *, n_rows: int) -> Ballots:
        """Keep one upload; ConfigError for logits."""
        return ballot(upload, n_rows=n_rows)

    def merge(self, left: Ballots, right: Ballots) -> Ballots:
        """Keep the uploads of both."""
        return joined(left, right)

    def finish(self, state: Ballots, *, rng: torch.Generator) -> Consensus:
        """Score, weigh and average."""
        state = spoken(state)
        scores = _outlier_scores(state)
        excess = (scores / scores.nanmedian() - 1).nan_to_num(nan=0.0).clamp(min=0)
        worth = (-self.sharpness * excess).exp().clamp(min=LEAST)
        uploads = tuple(
            replace(upload, weights=upload.weights.double() * one)
            for upload, one in zip(state.uploads, worth, strict=True)
        )
        return averaged(Ballots(uploads=uploads, n_rows=state.n_rows))


def _outlier_scores(state: Ballots) -> Tensor:
    """Return each upload's mean distance from the medians of its rows, NaN where not judged."""
    device = state.uploads[0].scores.device
    total = torch.zeros(len(state.uploads), dtype=torch.float64, device=device)
    judged = torch.zeros_like(total)
    for block in blocks(state):
        if block.scores.shape[1] < JUDGES:
            continue
        center = normalized(weighted_median(block.scores, block.weights), block)
        far = (block.scores - center[:, None]).abs().sum(dim=2) / 2
        total.index_add_(0, block.voters.flatten(), far.flatten())
        judged.index_add_(0, block.voters.flatten(), torch.ones_like(far).flatten())
    return total / judged
