"""What a client model is: a recipe for a torch module that turns inputs into class logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from fedkd.registry import Registry
from fedkd.rng import borrowed


class Model(ABC):
    """An architecture. Clients may use different ones.

    Attributes:
        tokens: it reads sequences of tokens and says the next one at every position.
    """

    tokens: ClassVar[bool] = False

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a fresh module: float ``[n, *input_shape]`` to logits ``[n, n_classes]``.

        Of tokens: int64 ``[n, positions]`` to logits ``[n, positions, n_classes]``, where a
        position's logits depend on no later token.

        Args:
            input_shape: ``(channels, height, width)`` for images, ``(columns,)`` for tables,
                ``(positions,)`` for tokens.
            n_classes: number of logits.
        """


models = Registry("model", Model, package="fedkd.models")


def initialized(
    model: Model, input_shape: tuple[int, ...], n_classes: int, *, rng: torch.Generator
) -> nn.Module:
    """Build a module whose initial weights come from ``rng`` alone."""
    with borrowed(rng):
        return model.build(input_shape, n_classes)
