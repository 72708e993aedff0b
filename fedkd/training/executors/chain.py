"""A stack of layers differentiated by hand, a few clients at a time: what lean trains.

Autograd keeps a record of every operation and calls a module for every layer, which costs a step of
a small network a tenth of its time and more. Here each layer keeps what its own way back needs,
and writes its gradients where they are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from fedkd.models.resnet8 import ResidualBlock
from fedkd.training.executors.image_links import IMAGE_KINDS
from fedkd.training.executors.links import KINDS, Link, Target
from fedkd.training.executors.networks import Network
from fedkd.training.packing import Packing
from fedkd.training.quickening import layers, watched


class Chain(Network[list[Tensor]]):
    """The layers of some clients, one after the other: each of all clients, then the next.

    What a processor reads of Python and torch for a layer, it has at hand for the next client.

    Args:
        packing: where parameters lie.
        module: one for which :meth:`fits` is true; its layers' settings are read, and no more.
        most: clients at once.
    """

    def __init__(self, packing: Packing, module: nn.Module, *, most: int) -> None:
        stack = list(layers(module))
        places = {id(parameter): n for n, parameter in enumerate(module.parameters())}
        self._links = [[_KINDS[type(layer)].of(layer) for _ in range(most)] for layer in stack]
        self._places = [[places[id(held)] for held in layer.parameters()] for layer in stack]
        self._first = next(n for n, held in enumerate(self._places) if held)
        self._parts = packing.parts
        self._own: list[list[list[Tensor]]] = []
        self._viewed: dict[tuple[int, ...], list[list[list[Tensor]]]] = {}

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Return whether all layers are known, and called once each, by nothing but the stack."""
        stack = list(_leaves(module))
        held = [id(parameter) for layer in stack for parameter in layer.parameters()]
        return 0 < len(held) == len(set(held)) and all(
            type(layer) in _KINDS and _KINDS[type(layer)].fits(layer) and not watched(layer)
            for layer in stack
        )

    @torch.no_grad()
    def logits(self, values: Tensor, inputs: list[Tensor]) -> list[Tensor]:
        """Go through the layers; ``inputs`` may be overwritten."""
        self._own, made = self._views(values), inputs
        for row, own in zip(self._links, self._own, strict=True):
            made = [
                link.forward(one, held) for link, one, held in zip(row, made, own, strict=False)
            ]
        return made

    @torch.no_grad()
    def backward(self, slopes: list[Tensor], into: Tensor, *, keep: float, scale: float) -> None:
        """Go back, down to the first layer that has parameters; ``slopes`` may be overwritten."""
        targets, back = self._views(into), slopes
        for n in range(len(self._links) - 1, self._first - 1, -1):
            further, found = n > self._first, list[Tensor]()
            for one, link, own, target in zip(
                back, self._links[n], self._own[n], targets[n], strict=False
            ):
                to = Target(target, keep, scale)
                found.append(link.backward(one, own, to, further=further))
                link.saved = ()
            back = found

    def _views(self, vectors: Tensor) -> list[list[list[Tensor]]]:
        """Return the parameters of each layer of each client; of the same memory, made once."""
        where = (vectors.data_ptr(), vectors.stride(0), len(vectors))
        if where not in self._viewed:
            if len(self._viewed) >= _VIEWED:
                self._viewed.clear()
            parts = [[part.of(one) for part in self._parts] for one in vectors]
            self._viewed[where] = [
                [[own[place] for place in places] for own in parts] for places in self._places
            ]
        return self._viewed[where]


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a stack, and those in its residual blocks."""
    for layer in layers(module):
        if type(layer) is ResidualBlock and not watched(layer):
            for part in (layer.body, layer.shortcut, layer.activation):
                yield from _leaves(part)
        else:
            yield layer


class _Row(Link):
    """Layers one after the other, of one client."""

    def __init__(self, layer: nn.Module) -> None:
        stack = list(layers(layer))
        ends = list(accumulate((len(list(one.parameters())) for one in stack), initial=0))
        self._links = [
            (_KINDS[type(one)].of(one), slice(*ends))
            for one, ends in zip(stack, pairwise(ends), strict=True)
        ]

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        for link, where in self._links:
            inputs = link.forward(inputs, own[where])
        return inputs

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        for link, where in reversed(self._links):
            slopes = link.backward(slopes, own[where], to.some(where), further=True)
            link.saved = ()
        return slopes


class _Residual(Link):
    def __init__(self, layer: ResidualBlock) -> None:
        self._body, self._shortcut = _Row(layer.body), _Row(layer.shortcut)
        self._activation = _Row(layer.activation)
        self._n_body = len(list(layer.body.parameters()))

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        made = self._body.forward(inputs, own[: self._n_body])
        made = made + self._shortcut.forward(inputs, own[self._n_body :])
        return self._activation.forward(made, ())

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        slopes = self._activation.backward(slopes, (), to.some(slice(0)), further=True)
        n, apart = self._n_body, slopes.clone()
        back = self._body.backward(slopes, own[:n], to.some(slice(n)), further=True)
        short = to.some(slice(n, None))
        return back + self._shortcut.backward(apart, own[n:], short, further=True)


_KINDS: dict[type[nn.Module], type[Link]] = {
    **KINDS,
    **IMAGE_KINDS,
    ResidualBlock: _Residual,
}
_VIEWED = 16
"""Vectors whose parts are remembered, which holds on to their memory."""
