"""A stack of layers differentiated by hand, a few clients at a time: what lean trains.

Autograd keeps a record of every operation and calls a module for every layer, which costs a step of
a small network a tenth of its time and more. Here each layer keeps what its own way back needs,
and writes its gradients where they are wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedkd.tasks import as_rows
from fedkd.training.executors.networks import Network, blend
from fedkd.training.packing import Packing
from fedkd.training.quickening import FromBlocks, ToBlocks, layers, watched


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
        self._links = [[_KINDS[type(layer)](layer) for _ in range(most)] for layer in stack]
        self._places = [[places[id(held)] for held in layer.parameters()] for layer in stack]
        self._first = next(n for n, held in enumerate(self._places) if held)
        self._parts = packing.parts
        self._own: list[list[list[Tensor]]] = []
        self._viewed: dict[tuple[int, ...], list[list[list[Tensor]]]] = {}

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Return whether all layers are known, and called once each, by nothing but the stack."""
        stack = list(layers(module))
        held = [id(parameter) for layer in stack for parameter in layer.parameters()]
        return 0 < len(held) == len(set(held)) and all(
            type(layer) in _KINDS and _KINDS[type(layer)].fits(layer) and not watched(layer)
            for layer in stack
        )

    @torch.no_grad()
    def logits(self, values: Tensor, inputs: list[Tensor]) -> list[Tensor]:
        """Go through the layers; ``inputs`` may be overwritten."""
        self._own, made = self._views(values), inputs
        for links, own in zip(self._links, self._own, strict=True):
            made = [
                link.forward(one, held) for link, one, held in zip(links, made, own, strict=False)
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
                to = _Target(target, keep, scale)
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


class _Target(NamedTuple):
    """Where gradients go: ``keep`` times what is there plus ``scale`` times the gradient."""

    tensors: Sequence[Tensor]
    keep: float
    scale: float

    def blend(self, gradients: Sequence[Tensor]) -> None:
        for one, gradient in zip(self.tensors, gradients, strict=True):
            blend(one, gradient, keep=self.keep, scale=self.scale)


class _Link(ABC):
    """What is done with one layer's inputs, and with its gradients.

    Attributes:
        saved: what the way back needs of the newest batch.
    """

    saved: tuple[Tensor, ...] = ()

    def __init__(self, layer: Any) -> None:
        """Read the settings of a layer that :meth:`fits`."""
        del layer

    @staticmethod
    def fits(layer: Any) -> bool:
        """Return whether a layer of the right class has only settings that are known here."""
        del layer
        return True

    @abstractmethod
    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        """Return what the layer makes; ``own`` are its parameters."""

    @abstractmethod
    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: _Target, *, further: bool
    ) -> Tensor:
        """Return the gradient of the inputs, or anything unless ``further``; hand over the rest.

        The parameters themselves may be the target. ``slopes`` may be overwritten.
        """


class _Convolution(_Link):
    def __init__(self, layer: Any) -> None:
        self._settings = (layer.stride, layer.padding, layer.dilation)
        self._groups, self._made = layer.groups, [layer.out_channels]

    @staticmethod
    def fits(layer: nn.Conv2d) -> bool:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self.saved = (inputs,)
        weight, bias = own if len(own) > 1 else (*own, None)
        return torch.conv2d(inputs, weight, bias, *self._settings, self._groups)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: _Target, *, further: bool
    ) -> Tensor:
        wanted = (further, True, len(own) > 1)
        back, *found = torch.ops.aten.convolution_backward.default(
            slopes,
            *self.saved,
            own[0],
            self._made,
            *self._settings,
            transposed=False,
            output_padding=[0, 0],
            groups=self._groups,
            output_mask=wanted,
        )
        to.blend(found[: len(own)])
        return back


class _Linear(_Link):
    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self.saved = (inputs,)
        return functional.linear(inputs, *own)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: _Target, *, further: bool
    ) -> Tensor:
        (read,), back = self.saved, slopes
        if further:
            back = slopes @ own[0]
        slopes, read = as_rows(slopes), as_rows(read)
        to.tensors[0].addmm_(slopes.t(), read, beta=to.keep, alpha=to.scale)
        for bias in to.tensors[1:]:
            blend(bias, slopes.sum(dim=0), keep=to.keep, scale=to.scale)
        return back


class _ReLU(_Link):
    def __init__(self, layer: nn.ReLU) -> None:
        self._relu = torch.relu_ if layer.inplace else torch.relu

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        made = self._relu(inputs)
        self.saved = (made,)
        return made

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: _Target, *, further: bool
    ) -> Tensor:
        back = torch.ops.aten.threshold_backward
        if slopes.is_mkldnn:
            return back.default(slopes, *self.saved, 0)
        return back.grad_input(slopes, *self.saved, 0, grad_input=slopes)


class _MaxPool(_Link):
    def __init__(self, layer: nn.MaxPool2d) -> None:
        sides = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        pairs = [[side, side] if isinstance(side, int) else list(side) for side in sides]
        self._settings = (*pairs, layer.ceil_mode)

    @staticmethod
    def fits(layer: nn.MaxPool2d) -> bool:
        return not layer.return_indices

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        if inputs.is_mkldnn:
            with torch.enable_grad():  # or it would not keep where the largest numbers were
                made = torch.ops.aten.mkldnn_max_pool2d.default(
                    inputs.requires_grad_(), *self._settings
                )
            self.saved = (inputs, made)
            return made
        made, taken = torch.ops.aten.max_pool2d_with_indices.default(inputs, *self._settings)
        self.saved = (inputs, taken)
        return made

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: _Target, *, further: bool
    ) -> Tensor:
        read, kept = self.saved
        if slopes.is_mkldnn:
            back = torch.ops.aten.mkldnn_max_pool2d_backward.default
            return back(slopes, kept, read, *self._settings)
        back = torch.ops.aten.max_pool2d_with_indices_backward.default
        return back(slopes, read, *self._settings, kept)


class _ToBlocks(_Link):
    def __init__(self, layer: ToBlocks) -> None:
        self._layer = layer

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        return self._layer(inputs)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: _Target, *, further: bool
    ) -> Tensor:
        return slopes.to_dense() if slopes.is_mkldnn else slopes


class _FromBlocks(_Link):
    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self._blocked = inputs.is_mkldnn
        return inputs.to_dense() if self._blocked else inputs

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: _Target, *, further: bool
    ) -> Tensor:
        return slopes.to_mkldnn() if self._blocked else slopes


class _Flatten(_Link):
    @staticmethod
    def fits(layer: nn.Flatten) -> bool:
        return (layer.start_dim, layer.end_dim) == (1, -1)

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self._shape, self._by_rows = inputs.shape, inputs.is_contiguous()
        return inputs.flatten(1)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: _Target, *, further: bool
    ) -> Tensor:
        """Give images the layout that they had: to work in two takes ten times as long."""
        slopes = slopes.view(self._shape)
        if self._by_rows or slopes.dim() != _IMAGES:
            return slopes
        return slopes.contiguous(memory_format=torch.channels_last)


_KINDS: dict[type[nn.Module], type[_Link]] = {
    nn.Conv2d: _Convolution,
    nn.Linear: _Linear,
    nn.ReLU: _ReLU,
    nn.MaxPool2d: _MaxPool,
    nn.Flatten: _Flatten,
    ToBlocks: _ToBlocks,
    FromBlocks: _FromBlocks,
}
_IMAGES = 4
"""Dimensions of a batch of images."""
_VIEWED = 16
"""Vectors whose parts are remembered, which holds on to their memory."""
