"""What a chain does with layers of images, ``[n, channels, height, width]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.training.executors.links import Link, Target
from fedkd.training.normalization import ChannelsLastNorm, Moments, gradients, normalized, pays
from fedkd.training.products import linear
from fedkd.training.quickening import FromBlocks, ToBlocks


class _Convolution(Link):
    def __init__(self, layer: Any) -> None:
        self._settings = (layer.stride, layer.padding, layer.dilation)
        self._groups, self._made = layer.groups, [layer.out_channels]

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Link:
        one = layer.kernel_size == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
        return _Pointwise(layer) if one else cls(layer)

    @staticmethod
    def fits(layer: nn.Conv2d) -> bool:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self.saved = (inputs,)
        weight, bias = own if len(own) > 1 else (*own, None)
        return torch.conv2d(inputs, weight, bias, *self._settings, self._groups)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
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


class _Pointwise(_Convolution):
    """A convolution of single positions, a matrix product: oneDNN's takes twice as long."""

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self._multiplies = _by_channels(inputs)
        if not self._multiplies:
            return super().forward(inputs, own)
        taken = self._taken(inputs)
        read = taken.reshape(-1, taken.shape[-1])
        self.saved = (read, inputs)
        weight, *bias = own
        made = linear(read, weight.flatten(1), *bias)
        return made.view(*taken.shape[:-1], -1).permute(0, 3, 1, 2)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        if not self._multiplies:
            return super().backward(slopes, own, to, further=further)
        (read, inputs), back = self.saved, slopes
        each = slopes.permute(0, 2, 3, 1)
        rows = each.reshape(-1, each.shape[-1])
        if further:
            back = torch.zeros_like(inputs)
            taken = self._taken(back)
            taken.copy_(linear(rows, own[0].flatten(1).t()).view(taken.shape))
        to.blend_rows(rows, read)
        return back

    def _taken(self, images: Tensor) -> Tensor:
        """View the positions that are read, ``[n, height, width, channels]``."""
        down, along = self._settings[0]
        return images.permute(0, 2, 3, 1)[:, ::down, ::along]


class _GroupNorm(Link):
    def __init__(self, layer: nn.GroupNorm) -> None:
        self._groups, self._eps = layer.num_groups, layer.eps

    @staticmethod
    def fits(layer: nn.GroupNorm) -> bool:
        return layer.affine

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        if pays(inputs, self._groups):
            weight, bias = own
            made, moments = normalized(inputs, weight, bias, groups=self._groups, eps=self._eps)
            self.saved = (inputs, *moments)
            self._by_hand = True
            return made
        self._by_hand, self._sizes = False, _sizes(inputs)
        made, *moments = torch.ops.aten.native_group_norm.default(
            inputs, *own, *self._sizes, self._groups, self._eps
        )
        self.saved = (inputs, *moments)
        return made

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        read, *moments = self.saved
        if self._by_hand:
            back, *found = gradients(slopes, read, Moments(*moments), own[0], groups=self._groups)
        else:
            back, *found = torch.ops.aten.native_group_norm_backward.default(
                slopes, read, *moments, own[0], *self._sizes, self._groups, [True, True, True]
            )
        to.blend(found)
        return back


class _MaxPool(Link):
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
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        read, kept = self.saved
        if slopes.is_mkldnn:
            back = torch.ops.aten.mkldnn_max_pool2d_backward.default
            return back(slopes, kept, read, *self._settings)
        back = torch.ops.aten.max_pool2d_with_indices_backward.default
        return back(slopes, read, *self._settings, kept)


class _Average(Link):
    """Of all positions of each channel."""

    @staticmethod
    def fits(layer: nn.AdaptiveAvgPool2d) -> bool:
        return layer.output_size in (1, (1, 1))

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self.saved = (inputs,)
        return inputs.mean(dim=(-2, -1), keepdim=True)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        (read,) = self.saved
        return torch.empty_like(read).copy_(slopes / (read.shape[-2] * read.shape[-1]))


class _ToBlocks(Link):
    def __init__(self, layer: ToBlocks) -> None:
        self._layer = layer

    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        return self._layer(inputs)

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        return slopes.to_dense() if slopes.is_mkldnn else slopes


class _FromBlocks(Link):
    def forward(self, inputs: Tensor, own: Sequence[Tensor]) -> Tensor:
        self._blocked = inputs.is_mkldnn
        return inputs.to_dense() if self._blocked else inputs

    def backward(
        self, slopes: Tensor, own: Sequence[Tensor], to: Target, *, further: bool
    ) -> Tensor:
        return slopes.to_mkldnn() if self._blocked else slopes


def _sizes(inputs: Tensor) -> tuple[int, int, int]:
    """Return what torch wants to be told for normalising: images, channels, positions."""
    n, channels, *sides = inputs.shape
    return n, channels, math.prod(sides)


def _by_channels(images: Tensor) -> bool:
    """Return whether the channels of a position lie together, in a tensor that can be viewed."""
    if images.is_mkldnn:
        return False
    return images.is_contiguous(memory_format=torch.channels_last)


IMAGE_KINDS: dict[type[nn.Module], type[Link]] = {
    nn.Conv2d: _Convolution,
    nn.GroupNorm: _GroupNorm,
    ChannelsLastNorm: _GroupNorm,
    nn.MaxPool2d: _MaxPool,
    nn.AdaptiveAvgPool2d: _Average,
    ToBlocks: _ToBlocks,
    FromBlocks: _FromBlocks,
}
"""By the layer's own class: what is derived from one may do more."""
