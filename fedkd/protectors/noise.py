"""Noise laws of scale one, drawn from a stream that is given."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor


class Noise(StrEnum):
    """A law with mean zero; its scale is the factor it is multiplied with."""

    GAUSSIAN = "gaussian"
    """Scale: the standard deviation."""
    LAPLACE = "laplace"
    """Scale: b, the mean magnitude; the standard deviation is sqrt(2) b."""

    def like(self, values: Tensor, *, rng: torch.Generator) -> Tensor:
        """Return independent draws of scale one, of the shape, type and device of ``values``.

        Drawn on the CPU in float64, so that every device adds the same noise. Not safe against
        attacks on the generator or on floating-point numbers.
        """
        if self is Noise.GAUSSIAN:
            drawn = torch.randn(values.shape, generator=rng, dtype=torch.float64)
        else:  # the difference of two exponential draws
            pair = torch.empty((2, *values.shape), dtype=torch.float64).exponential_(generator=rng)
            drawn = pair[0] - pair[1]
        return drawn.to(values)
