"""Noisy mean: the mean of all clients' probabilities through Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt

from fedkd.aggregators.base import Aggregator, Sums, aggregators
from fedkd.aggregators.gnmax import gaussian_event, noisy_sums
from fedkd.aggregators.streaming import add, fold, weighted_sums
from fedkd.errors import ConfigError
from fedkd.privacy.events import Event
from fedkd.simplex import project
from fedkd.types import Consensus, Knowledge, Space


@aggregators.register("noisy_mean")
@dataclass(frozen=True)
class NoisyMean(Aggregator):
    """Mean of the clients' probabilities plus Gaussian noise, moved to the nearest probabilities.

    Privacy: client-level against everybody who sees the consensus, trusting the server. Whoever
    took part is public, what they kept is not: sums are divided by the number of uploads, so a
    client that skipped a row counts there with zeros, and a row that few kept comes out flat.
    Before it is moved to the simplex, the mean is unbiased.

    Attributes:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity of a round's
            sums, sqrt(2 proxy rows); None is worked out from ``privacy.target_epsilon``.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset({Space.PROBS})
    reads_row_temperatures: ClassVar[bool] = False
    noise_multiplier: Annotated[float, Gt(0)] | None = None

    def partial(self, upload: Knowledge, *, n_rows: int) -> Sums:
        """Return one upload's sums, no row longer than 1, with mass 1 in every row.

        Raises:
            ConfigError: the scores are logits, which have no bound, or come with temperatures,
                which no noise covers.
        """
        sums = weighted_sums(_bounded(upload), n_rows=n_rows)
        return replace(sums, mass=torch.ones_like(sums.mass))

    def accumulate(self, state: Sums | None, upload: Knowledge, *, n_rows: int) -> Sums:
        """Add one upload in place, as :meth:`partial` makes it."""
        if state is None:
            return self.partial(upload, n_rows=n_rows)
        mass = state.mass + 1
        return replace(fold(state, _bounded(upload), n_rows=n_rows), mass=mass)

    def merge(self, left: Sums, right: Sums) -> Sums:
        """Add two states."""
        return add(left, right)

    def finish(self, state: Sums, *, rng: torch.Generator) -> Consensus:
        """Add noise to every row and divide; ConfigError without a noise multiplier."""
        sums = noisy_sums(state, self.noise_multiplier, rng=rng)
        return Consensus(
            rows=torch.arange(len(sums), device=sums.device),
            scores=project(sums / state.mass[:, None]).float(),
            space=state.space,
            temperature=state.temperature,
            keepers=state.keepers,
        )

    def event(self, *, n_rows: int) -> Event:
        """Return the Gaussian event: the noise grows with ``n_rows``, so its cost does not."""
        return gaussian_event(self.noise_multiplier)


def _bounded(upload: Knowledge) -> Knowledge:
    if upload.space is not Space.PROBS:
        raise ConfigError(
            f"noisy_mean cannot bound scores in the space {upload.space.value!r}; use a "
            "distiller that reads probabilities, such as kl"
        )
    if upload.row_temperatures is not None:
        raise ConfigError(
            "noisy_mean adds no noise to temperatures told row by row; use a protector with "
            "server_temperature=agreed, or aggregator=gnmax"
        )
    scores = upload.scores.double().clamp(min=0)
    length = scores.norm(dim=1, keepdim=True)
    return replace(upload, scores=scores / length.clamp(min=1), weights=upload.weights.clamp(0, 1))
