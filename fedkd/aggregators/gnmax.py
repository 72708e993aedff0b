"""Noisy votes: every client votes for one class a row, and the winner is announced through noise.

GNMax of Papernot et al.: Scalable Private Learning with PATE, 2018,
https://arxiv.org/abs/1802.08908
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn import functional

from fedkd.aggregators.base import Aggregator, Sums, aggregators
from fedkd.aggregators.streaming import add, fold, settled, weighted_sums
from fedkd.errors import ConfigError
from fedkd.privacy.events import Event, Gaussian, Uncounted
from fedkd.privacy.votes import noise_per_sum
from fedkd.types import Consensus, Knowledge, Space


def noisy_sums(state: Sums, noise_multiplier: float | None, *, rng: torch.Generator) -> Tensor:
    """Return the sums of every proxy row with Gaussian noise, float64 ``[proxy, classes]``.

    Rows that nobody kept get noise like the others: a missing row would tell what clients chose.

    Raises:
        ConfigError: the noise multiplier is not known.
    """
    if noise_multiplier is None:
        raise ConfigError(
            "method.aggregator.noise_multiplier: None says nothing about the noise; set "
            "privacy.target_epsilon, from which it is worked out, or give a number"
        )
    sums = settled(state).scores
    noise = torch.randn(sums.shape, dtype=sums.dtype, device=rng.device, generator=rng)
    std = noise_per_sum(noise_multiplier, n_rows=sums.shape[0])
    return sums + std * noise.to(sums.device)


def gaussian_event(noise_multiplier: float | None) -> Event:
    """Return what one release of :func:`noisy_sums` tells about a whole client."""
    if noise_multiplier is None:
        return Uncounted("the noise multiplier is not known yet")
    return Gaussian(noise_multiplier)


@aggregators.register("gnmax")
@dataclass(frozen=True)
class GNMax(Aggregator):
    """The class with the most votes after Gaussian noise, as a one-hot row.

    Privacy: client-level against everybody who sees the consensus, trusting the server. Weights
    and confidence do not count: an upload is one vote for each row it holds, ties to the lowest
    class. Accounting does not look at the votes.

    Attributes:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity of a round's
            answers, sqrt(2 proxy rows); None is worked out from ``privacy.target_epsilon``.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset({Space.PROBS})
    noise_multiplier: Annotated[float, Gt(0)] | None = None

    def partial(self, upload: Knowledge, *, n_rows: int) -> Sums:
        """Return one upload's votes."""
        return weighted_sums(_ballot(upload), n_rows=n_rows)

    def accumulate(self, state: Sums | None, upload: Knowledge, *, n_rows: int) -> Sums:
        """Add one upload's votes in place."""
        return fold(state, _ballot(upload), n_rows=n_rows)

    def merge(self, left: Sums, right: Sums) -> Sums:
        """Add two states."""
        return add(left, right)

    def finish(self, state: Sums, *, rng: torch.Generator) -> Consensus:
        """Announce the winner of every row; ConfigError without a noise multiplier."""
        counts = noisy_sums(state, self.noise_multiplier, rng=rng)
        return Consensus(
            rows=torch.arange(len(counts), device=counts.device),
            scores=functional.one_hot(counts.argmax(dim=1), counts.shape[1]).float(),
            space=Space.PROBS,
            temperature=state.temperature,
            keepers=state.keepers,
        )

    def event(self, *, n_rows: int) -> Event:
        """Return the Gaussian event: the noise grows with ``n_rows``, so its cost does not."""
        return gaussian_event(self.noise_multiplier)


def _ballot(upload: Knowledge) -> Knowledge:
    votes = functional.one_hot(upload.scores.argmax(dim=1), upload.scores.shape[1])
    weights = torch.ones_like(upload.weights)
    return replace(upload, scores=votes, weights=weights, row_temperatures=None)
