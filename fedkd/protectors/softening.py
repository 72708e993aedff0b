"""Temperature, softmax, noise, projection: four types of which each leads only to the next.

Noise before the softmax is another mechanism, and a temperature after it protects nothing; so a
:class:`Tempered` can only become :class:`Soft`, that only :class:`Noisy`, and that a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.simplex import project


def tempered(logits: Tensor, temperatures: Tensor) -> Tempered:
    """Divide logits, ``[n, classes]``, by each row's temperature, ``[n]``."""
    return Tempered(logits=logits / temperatures[:, None])


@dataclass(frozen=True, eq=False, kw_only=True)
class Tempered:
    """Logits over a temperature. Who knows it has the logits: nothing is protected yet."""

    logits: Tensor

    def softmax(self) -> Soft:
        """Return each row's probabilities."""
        return Soft(probabilities=torch.softmax(self.logits, dim=1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Soft:
    """Probabilities; raised to the temperature they still are those of the logits."""

    probabilities: Tensor

    def plus(self, noise: Tensor) -> Noisy:
        """Add noise, ``[n, classes]``."""
        return Noisy(values=self.probabilities + noise, changed=(noise != 0).any(dim=1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Noisy:
    """Numbers beside the simplex; ``changed``, bool ``[n]``, where any noise was added."""

    values: Tensor
    changed: Tensor

    def projected(self) -> Tensor:
        """Return the nearest probabilities, ``[n, classes]``; rows without noise to the bit."""
        return torch.where(self.changed[:, None], project(self.values), self.values)
