"""What a chain does with a layer: what it keeps on its way there, and how it goes back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedkd.tasks import as_rows
from fedkd.training.products import QuickLinear, blend, blend_product, linear


class Target(NamedTuple):
    """Where gradients go: ``keep`` times what is there plus ``scale`` times the gradient."""

    tensors: Sequence[Tensor]
    keep: float
    scale: float

    def blend(self, found: Sequence[Tensor]) -> None:
        """Hand over the gradient of each tensor."""
        for one, gradient in zip(self.tensors, found, strict=True):
            blend(one, gradient, keep=self.keep, scale=self.scale)

    def blend_rows(self, slopes: Tensor, read: Tensor) -> None:
        """Hand over those of a weight and maybe a bias that made rows of rows, ``[n, ...]``."""
        weight, *bias = self.tensors
        blend_product(weight.flatten(1), slopes.t(), read, keep=self.keep, scale=self.scale)
        for one in bias:
            blend(one, slopes.sum(dim=0), keep=self.keep, scale=self.scale)

    def some(self, where: slice) -> Target:
        """Return where those of some of the tensors go."""
        return self._replace(tensors=self.tensors[where])


class Link(ABC):
    """What is done with one layer's inputs, and with its gradients.

    Attributes:
        saved: what the way back needs of the newest batch.
    """

    saved: tuple[Tensor, ...] = ()

    def __init__(self, layer: Any) -> None:
        """Read the settings of a layer that :meth:`fits`."""
        del layer

    @classmethod
    def of(cls, layer: Any) -> Link:
        """Return a link, or one of a kind that does better for this layer."""
        return cls(layer)

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
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        """Return the gradient of the inputs, or anything unless ``further``; hand over the rest.

        The parameters themselves may be the target. ``slopes`` may be overwritten.
        """


class _Linear(Link):
    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self.saved = (inputs,)
        return linear(inputs, *own)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        (read,), back = self.saved, slopes
        if further:
            back = linear(slopes, own[0].t())
        to.blend_rows(as_rows(slopes), as_rows(read))
        return back


class _ReLU(Link):
    def __init__(self, layer: nn.ReLU) -> None:
        self._relu = torch.relu_ if layer.inplace else torch.relu

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        made = self._relu(inputs)
        self.saved = (made,)
        return made

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        back = torch.ops.aten.threshold_backward
        if slopes.is_mkldnn:
            return back.default(slopes, *self.saved, 0)
        return back.grad_input(slopes, *self.saved, 0, grad_input=slopes)


class _Flatten(Link):
    @staticmethod
    def fits(layer: nn.Flatten) -> bool:
        return (layer.start_dim, layer.end_dim) == (1, -1)

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self._shape, self._by_rows = inputs.shape, inputs.is_contiguous()
        return inputs.flatten(1)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        """Give images the layout that they had: to work in two takes ten times as long."""
        slopes = slopes.view(self._shape)
        if self._by_rows or slopes.dim() != _IMAGES:
            return slopes
        return slopes.contiguous(memory_format=torch.channels_last)


class _Identity(Link):
    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        return inputs

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        return slopes


KINDS: dict[type[nn.Module], type[Link]] = {
    nn.Linear: _Linear,
    QuickLinear: _Linear,
    nn.ReLU: _ReLU,
    nn.Flatten: _Flatten,
    nn.Identity: _Identity,
}
"""By the layer's own class: what is derived from one may do more."""
_IMAGES = 4
"""Dimensions of a batch of images."""
