"""Modules as functions of vectors of parameters, of one client or of many: what executors train."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedkd.training.packing import Packing
from fedkd.training.products import blend, blend_products, linear_each
from fedkd.training.steps import scaled

Batches = TypeVar("Batches", Tensor, list[Tensor])
"""A batch of each client: ``[clients, n, ...]``, or a list of ``[n, ...]`` of any lengths."""


class Network(ABC, Generic[Batches]):
    """Copies of a module, evaluated and differentiated together."""

    @abstractmethod
    def logits(self, values: Tensor, inputs: Batches) -> Batches:
        """Return logits, ``[n, *positions, classes]`` of each client, of its batch of inputs.

        ``values`` are the parameters, ``[clients, size]``.
        """

    @abstractmethod
    def backward(self, slopes: Batches, into: Tensor, *, keep: float, scale: float) -> None:
        """Make ``into``, ``[clients, size]``, ``keep`` times itself plus ``scale`` gradients.

        ``slopes`` are the gradient of the newest logits. ``into`` may be the parameters that gave
        them; with ``keep=0`` it may hold anything.
        """


class Mapped(Network[Tensor]):
    """Any module, by ``torch.func.vmap``."""

    def __init__(self, packing: Packing, module: nn.Module) -> None:
        self._packing = packing
        self._module = copy.deepcopy(module).train()

    def logits(self, values: Tensor, inputs: Tensor) -> Tensor:
        """Map the module over clients."""
        parts = {p.name: p.of(values).contiguous() for p in self._packing.parts}
        self._held = {name: part.detach().requires_grad_() for name, part in parts.items()}

        def one(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return functional_call(self._module, parameters, (scaled(inputs),))

        with torch.enable_grad():
            self._logits: Tensor = vmap(one)(self._held, inputs)
        return self._logits.detach()

    def backward(self, slopes: Tensor, into: Tensor, *, keep: float, scale: float) -> None:
        """Let autograd go through the mapped module."""
        found = torch.autograd.grad(self._logits, list(self._held.values()), slopes)
        for part, gradient in zip(self._packing.parts, found, strict=True):
            blend(part.of(into), gradient, keep=keep, scale=scale)


class Whole(Network[list[Tensor]]):
    """Any module of one client, by autograd."""

    def __init__(self, packing: Packing, module: nn.Module) -> None:
        self._parts, self._module = packing.parts, module.train()
        self._parameters = list(module.parameters())
        self._logits: Tensor | None = None

    def logits(self, values: Tensor, inputs: list[Tensor]) -> list[Tensor]:
        """Call the module, whose parameters become views of ``values``."""
        for part, parameter in zip(self._parts, self._parameters, strict=True):
            parameter.data = part.of(values[0])
        with torch.enable_grad():
            made: Tensor = self._module(inputs[0])
        self._logits = made
        return [made.detach()]

    def backward(self, slopes: list[Tensor], into: Tensor, *, keep: float, scale: float) -> None:
        """Let autograd go through the module."""
        if self._logits is None:
            raise RuntimeError("there are no logits to go back from")
        found = torch.autograd.grad(
            self._logits, self._parameters, slopes[0], materialize_grads=True
        )
        self._logits = None
        for part, gradient in zip(self._parts, found, strict=True):
            blend(part.of(into[0]), gradient, keep=keep, scale=scale)


class TwoLayers(Network[Tensor]):
    """Flatten, linear, ReLU, linear: batched matrix products, differentiated by hand."""

    def __init__(self, packing: Packing) -> None:
        self._parts = packing.parts
        self._newest: tuple[Tensor, list[Tensor]] | None = None

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Return whether the module is of this form."""
        if not isinstance(module, nn.Sequential):
            return False
        kinds = [type(layer) for layer in module]
        return kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear] and len(
            list(module.parameters())
        ) == len(("first", "its bias", "second", "its bias"))

    def logits(self, values: Tensor, inputs: Tensor) -> Tensor:
        """Multiply, keep what the way back needs."""
        first, first_bias, second, second_bias = self._views(values)
        self._inputs = scaled(inputs.flatten(2))
        wide = linear_each(self._inputs, first, first_bias)
        self._hidden, self._second = wide.relu_(), second
        return linear_each(self._hidden, second, second_bias)

    def backward(self, slopes: Tensor, into: Tensor, *, keep: float, scale: float) -> None:
        """Multiply back; hidden units that were zero pass nothing."""
        first, first_bias, second, second_bias = self._views(into)
        hidden = torch.bmm(slopes, self._second)
        hidden = torch.ops.aten.threshold_backward.default(hidden, self._hidden, 0)
        blend_products(second, slopes.transpose(1, 2), self._hidden, keep=keep, scale=scale)
        blend(second_bias, slopes.sum(dim=1), keep=keep, scale=scale)
        blend_products(first, hidden.transpose(1, 2), self._inputs, keep=keep, scale=scale)
        blend(first_bias, hidden.sum(dim=1), keep=keep, scale=scale)

    def _views(self, vectors: Tensor) -> list[Tensor]:
        """Return the matrices and biases in vectors; of those asked for last, made once."""
        if self._newest is None or self._newest[0] is not vectors:
            self._newest = (vectors, [part.of(vectors) for part in self._parts])
        return self._newest[1]
