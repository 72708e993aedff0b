"""Swing-style protection: the likelier a row gives something away, the softer and noisier it is.

After Swing Distillation, Li et al. 2022, https://arxiv.org/abs/2212.08349, whose idea this is: a
temperature by privacy likelihood instead of a constant one, and noise on the soft targets. Its
formulas could not be obtained, so every choice below is ours and nothing here reproduces it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.privacy.events import Event, Gaussian, Laplace, Uncounted
from fedkd.protectors.base import Context, Protector, logits_of, protectors
from fedkd.protectors.noise import Noise
from fedkd.protectors.softening import tempered
from fedkd.scorers.base import Scorer
from fedkd.scorers.confidence import Confidence
from fedkd.simplex import moved_mass
from fedkd.types import Knowledge, Space

DRAWS = 4096
"""Noisy rows over which :meth:`Swing.projected_mass` takes a mean."""


class NoiseLaw(StrEnum):
    """How a row's noise depends on its likelihood."""

    CONSTANT = "constant"
    """``noise_scale``: the only law with a formal epsilon."""
    GROWING = "growing"
    """``noise_scale * (1 + growth * likelihood)``."""
    PROPORTIONAL = "proportional"
    """``noise_scale * likelihood``: a row that gives nothing away is left alone."""


class ServerTemperature(StrEnum):
    """What the student takes a row's temperature to be."""

    AGREED = "agreed"
    """The distiller's own, whatever the row was softened with."""
    TOLD = "told"
    """The row's, which travels beside it and tells its likelihood."""


@protectors.register("swing")
@dataclass(frozen=True)
class Swing(Protector):
    """Likelihood, then temperature, softmax, noise, and the nearest probabilities.

    Likelihood 0 everywhere and no noise is plain distillation to the bit. Temperature alone
    protects nothing against a reader who knows it: it only makes the noise weigh more, by about
    temperature / probability on a logit.

    Privacy: constant noise is, formally, a client-level mechanism, since a row of probabilities
    moves by at most sqrt(2) (L2) or 2 (L1) whatever the client's data. At useful scales its
    epsilon is vacuous. Any other setting has none: a scale or a temperature that is computed from
    the scores, or a scorer that reads private examples, is an output of its own. So is the share
    of mass that the projection moved on the rows of a run, which therefore nobody reports; between
    what it lies on average follows from the settings (:meth:`projected_mass`, ``fedkd privacy
    plan``).

    Attributes:
        scorer: gives each row's likelihood in [0, 1].
        temperature_min: at likelihood 0; None takes the distiller's, as plain distillation does.
        temperature_max: at likelihood 1.
        exponent: temperature = min + (max - min) * likelihood^exponent.
        noise: the law of the noise.
        noise_scale: its standard deviation (gaussian) or b (laplace), on probabilities.
        noise_law: how the scale depends on the likelihood.
        growth: for the growing law.
        server_temperature: what the student trains at.
    """

    scorer: Scorer = field(default_factory=Confidence)
    temperature_min: Annotated[float, Gt(0)] | None = None
    temperature_max: Annotated[float, Gt(0)] = 8.0
    exponent: Annotated[float, Gt(0)] = 1.0
    noise: Noise = Noise.GAUSSIAN
    noise_scale: Annotated[float, Ge(0)] = 0.05
    noise_law: NoiseLaw = NoiseLaw.CONSTANT
    growth: Annotated[float, Ge(0)] = 1.0
    server_temperature: ServerTemperature = ServerTemperature.AGREED

    def __post_init__(self) -> None:
        """Refuse a range that is upside down."""
        if self.temperature_min is not None:
            self._range(self.temperature_min)

    @property
    def keeps_logits(self) -> bool:
        """It makes probabilities."""
        return False

    @property
    def needs_logits(self) -> bool:
        """It divides logits."""
        return True

    @property
    def reads_private(self) -> bool:
        """As its scorer does."""
        return self.scorer.reads_private

    @property
    def adds_noise(self) -> bool:
        """Unless its scale is 0."""
        return self.noise_scale > 0

    def check(self, *, temperature: float) -> None:
        """Raise ConfigError for an empty range of temperatures or an unfinished scorer."""
        self._range(temperature)
        self.scorer.check()

    def row_temperatures(self, *, temperature: float) -> tuple[float, float] | None:
        """Return the range where the temperatures are told."""
        told = self.server_temperature is ServerTemperature.TOLD
        return self._range(temperature) if told else None

    def projected_mass(self, *, n_classes: int) -> tuple[float, float] | None:
        """Return the mean moved mass of an even row at the least scale, of a sure one at the most.

        Every other row lies between: moved mass is convex in the row and grows with the scale.
        """
        if self.noise_scale == 0:
            return None
        rng = torch.Generator().manual_seed(0)
        noise = self.noise.like(torch.zeros(DRAWS, n_classes), rng=rng)
        least, most = self._scales(torch.tensor([0.0, 1.0]))
        even, sure = torch.full((n_classes,), 1 / n_classes), torch.eye(n_classes)[0]
        low, high = moved_mass(even + least * noise), moved_mass(sure + most * noise)
        return float(low.mean()), float(high.mean())

    def protect(self, knowledge: Knowledge, context: Context, *, rng: torch.Generator) -> Knowledge:
        """Return probabilities; ConfigError as :meth:`check`, ValueError for no logits."""
        logits = logits_of(knowledge)
        least, most = self._range(context.temperature)
        likelihood = self.scorer.likelihood(replace(knowledge, scores=logits), context)
        temperatures = least + (most - least) * likelihood**self.exponent
        noise = self._scales(likelihood)[:, None] * self.noise.like(logits, rng=rng)
        told = self.server_temperature is ServerTemperature.TOLD
        return replace(
            knowledge,
            scores=tempered(logits, temperatures).softmax().plus(noise).projected(),
            space=Space.PROBS,
            temperature=context.temperature,
            row_temperatures=temperatures if told else None,
        )

    def event(self, *, n_rows: int) -> Event:
        """Return the noise's event where its scale and everything beside it is free of data."""
        n_rows = max(1, n_rows)
        if self.noise_scale == 0:
            return Uncounted("a temperature without noise is undone by who knows it")
        if self.noise_law is not NoiseLaw.CONSTANT:
            return Uncounted("the scale of the noise is computed from the scores")
        if self.scorer.reads_private:
            return Uncounted("the likelihood is computed from private examples")
        if self.server_temperature is ServerTemperature.TOLD:
            return Uncounted("temperatures computed from the scores are sent beside them")
        if self.noise is Noise.LAPLACE:
            return Laplace(self.noise_scale / 2, count=n_rows)
        return Gaussian(self.noise_scale / math.sqrt(2 * n_rows))

    def _range(self, temperature: float) -> tuple[float, float]:
        least = temperature if self.temperature_min is None else self.temperature_min
        if self.temperature_max < least:
            whose = "the distiller's temperature" if self.temperature_min is None else "the minimum"
            raise ConfigError(
                f"temperature_max: {self.temperature_max:g} is below {whose} {least:g}; "
                f"give {least:g} or more, or lower the other"
            )
        return least, self.temperature_max

    def _scales(self, likelihood: Tensor) -> Tensor:
        match self.noise_law:
            case NoiseLaw.CONSTANT:
                return torch.full_like(likelihood, self.noise_scale)
            case NoiseLaw.GROWING:
                return self.noise_scale * (1 + self.growth * likelihood)
            case NoiseLaw.PROPORTIONAL:
                return self.noise_scale * likelihood
