"""One hidden layer on flattened inputs: takes images and tables alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from torch import nn

from fedkd.models.base import Model, models


@models.register("mlp")
@dataclass(frozen=True)
class MLP(Model):
    """Flatten, linear, ReLU, linear.

    Attributes:
        hidden: units of the hidden layer.
    """

    hidden: Annotated[int, Ge(1)] = 128

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a fresh module for inputs of any shape."""
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(input_shape), self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, n_classes),
        )
