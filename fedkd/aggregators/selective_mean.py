"""Plain mean without the rows on which the clients' mean stays undecided.

The server selector of Selective-FD, Shao et al. 2024, https://arxiv.org/abs/2304.01731.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from torch.nn import functional

from fedkd.aggregators.base import Aggregator, Sums, aggregators
from fedkd.aggregators.mean import mean_of
from fedkd.aggregators.streaming import add, fold, kept, weighted_sums
from fedkd.errors import ConfigError
from fedkd.types import Consensus, Knowledge, Space

OFF = 2.0
"""No probability vector is this far from its own one-hot vector."""


@aggregators.register("selective_mean")
@dataclass(frozen=True)
class SelectiveMean(Aggregator):
    """Mean of probabilities; rows whose mean is at L1 distance ``ambiguity`` or more are dropped.

    The distance to the mean's own one-hot vector is 2 (1 - its largest probability): 0 when all
    keepers are sure of one class, 2 - 2 / classes when the mean is uniform. It is measured on the
    probabilities that were sent, so a high temperature makes every row look ambiguous.

    Attributes:
        ambiguity: in (0, 2]; 2 drops nothing, as in the authors' released demo.
    """

    linear: ClassVar[bool] = True
    ambiguity: Annotated[float, Gt(0), Le(OFF)] = OFF

    def partial(self, upload: Knowledge, *, n_rows: int) -> Sums:
        """Return one upload's sums; ConfigError for logits, which have no one-hot vector."""
        return weighted_sums(_judged(upload), n_rows=n_rows)

    def accumulate(self, state: Sums | None, upload: Knowledge, *, n_rows: int) -> Sums:
        """Add one upload in place; ConfigError for logits."""
        return fold(state, _judged(upload), n_rows=n_rows)

    def merge(self, left: Sums, right: Sums) -> Sums:
        """Add two states."""
        return add(left, right)

    def finish(self, state: Sums, *, rng: torch.Generator) -> Consensus:
        """Divide by the mass and drop ambiguous rows."""
        mean = mean_of(state)
        if self.ambiguity >= OFF:
            return mean
        one_hot = functional.one_hot(mean.scores.argmax(dim=1), mean.scores.shape[1])
        clear = (mean.scores - one_hot).abs().sum(dim=1) < self.ambiguity
        rows, told = mean.rows[clear], mean.row_temperatures
        return Consensus(
            rows=rows,
            scores=mean.scores[clear],
            space=mean.space,
            temperature=mean.temperature,
            keepers=kept(state)[rows],
            row_temperatures=None if told is None else told[clear],
        )


def _judged(upload: Knowledge) -> Knowledge:
    if upload.space is not Space.PROBS:
        raise ConfigError(
            f"selective_mean cannot judge scores in the space {upload.space.value!r}; "
            "use a distiller that reads probabilities, such as kl, or aggregator=mean"
        )
    return upload
