"""What a client model is: a recipe for a torch module that turns inputs into class logits."""

from __future__ import annotations

import copy
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


class Initializer:
    """Makes modules of one architecture with initial weights, many of them in a row.

    Building one takes longer than drawing its numbers. Where the layers of a module, asked one
    after another to reset themselves, draw just what building the module drew, one module serves
    for all; which is tried out once.
    """

    def __init__(self, model: Model, input_shape: tuple[int, ...], n_classes: int) -> None:
        self._model, self._shape, self._n_classes = model, input_shape, n_classes
        self._used: nn.Module | None = None
        self._tried = False

    def module(self, rng: torch.Generator) -> nn.Module:
        """Return what :func:`initialized` does, until this is called again."""
        if self._used is not None:
            _reset(self._used, rng)
            return self._used
        again = torch.Generator().set_state(rng.get_state())
        module = initialized(self._model, self._shape, self._n_classes, rng=rng)
        if not self._tried:
            self._tried = True
            twin = copy.deepcopy(module)
            _reset(twin, torch.Generator().manual_seed(0))
            _reset(twin, again)
            if _same(twin, module) and torch.equal(again.get_state(), rng.get_state()):
                self._used = module
        return module


def _reset(module: nn.Module, rng: torch.Generator) -> None:
    with borrowed(rng):
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()


def _same(one: nn.Module, other: nn.Module) -> bool:
    tensors = [(*module.parameters(), *module.buffers()) for module in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
