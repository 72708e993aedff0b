"""Gaussian noise on clipped logits: the plain mechanism with a client-level guarantee.

Priced by the analytic Gaussian mechanism, Balle & Wang 2018, https://arxiv.org/abs/1805.06530;
the classical formula understates the loss from epsilon 1 on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Gt

from fedkd.errors import ConfigError
from fedkd.privacy.events import Event, Gaussian
from fedkd.protectors.base import Context, Protector, logits_of, protectors
from fedkd.protectors.noise import Noise
from fedkd.types import LOGIT_LIMIT, Knowledge


@protectors.register("gaussian")
@dataclass(frozen=True)
class GaussianNoise(Protector):
    """Centers each row of logits, clips it to ``clip_norm`` and adds noise to every logit.

    Privacy: client-level, against everybody. Nothing bounds how far one example moves a model's
    logits, so the sensitivity is the clip's diameter on every row, 2 clip_norm sqrt(proxy rows),
    for one changed example as for all. With a thousand rows even epsilon 8 takes a standard
    deviation of 38 clip norms.

    Attributes:
        clip_norm: L2 norm of a centered row.
        noise_multiplier: standard deviation of the noise over the sensitivity; None is worked out
            from ``privacy.target_epsilon`` before a run.
    """

    clip_norm: Annotated[float, Gt(0)] = 5.0
    noise_multiplier: Annotated[float, Gt(0)] | None = None

    @property
    def needs_logits(self) -> bool:
        """It clips logits."""
        return True

    @property
    def adds_noise(self) -> bool:
        """Always."""
        return True

    def protect(self, knowledge: Knowledge, context: Context, *, rng: torch.Generator) -> Knowledge:
        """Return noisy logits; ConfigError without a multiplier, ValueError for no logits."""
        logits = logits_of(knowledge).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        centered = logits - logits.mean(dim=1, keepdim=True)
        length = centered.norm(dim=1, keepdim=True)
        clipped = centered * (self.clip_norm / length.clamp(min=self.clip_norm))
        sensitivity = 2 * self.clip_norm * math.sqrt(context.proxy.n_rows)
        noise = self._multiplier() * sensitivity * Noise.GAUSSIAN.like(logits, rng=rng)
        return replace(knowledge, scores=(clipped + noise).clamp(-LOGIT_LIMIT, LOGIT_LIMIT))

    def event(self, *, n_rows: int) -> Event:
        """Return the Gaussian event: the noise grows with the proxy set, so its cost does not."""
        return Gaussian(self._multiplier())

    def _multiplier(self) -> float:
        if self.noise_multiplier is None:
            raise ConfigError(
                "noise_multiplier: null is not worked out yet; give a number, or "
                "privacy.target_epsilon=8"
            )
        return self.noise_multiplier
