"""What makes a plain stack of layers faster on a processor, and changes nothing but rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedkd.models.resnet8 import ResidualBlock
from fedkd.training.normalization import ChannelsLastNorm
from fedkd.training.products import QuickLinear


class ToBlocks(nn.Module):
    """Gives images the layout that oneDNN's convolutions like best.

    Attributes:
        on: whether it does.
    """

    on = True

    def forward(self, images: Tensor) -> Tensor:
        """Return an opaque tensor of the same numbers, or what oneDNN cannot hold as it is."""
        if self.on and images.dtype == torch.float32 and images.device.type == "cpu":
            return images.to_mkldnn()
        return images


class FromBlocks(nn.Module):
    """Gives images a layout that any layer can read."""

    def forward(self, images: Tensor) -> Tensor:
        """Return a dense tensor of the same numbers."""
        return images.to_dense() if images.is_mkldnn else images


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a plain stack, or of stacks in it; any other module as one."""
    if type(module) is nn.Sequential and not watched(module):
        for layer in module:
            yield from layers(layer)
    else:
        yield module


def watched(module: nn.Module) -> bool:
    """Return whether something is called whenever the module is."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, held) for held in hooks)


def quickened(module: nn.Module, *, trained: bool) -> nn.Module:
    """Return a stack of the same layers under the same names, which is faster; use the old no more.

    Only a plain stack changes, and the residual blocks in it: another module could call the layers
    of its parts by itself, and a layer that is called twice or has hooks is seen elsewhere.

    - Pooling goes before ReLU. The largest of some numbers that are not negative is the same as
      what ReLU makes of the largest number, and so are the gradients, but there is less to do.
    - ReLUs overwrite what the layer before them made, where nobody else reads that.
    - Matrices are multiplied by the library that is faster.
    - Images are normalised by fewer passes over them, where groups are of few channels.
    - Convolutions and what is between them work in oneDNN's own layout, where that is faster:
      without AVX-512 it is not for what is ``trained``.
    """
    if type(module) is not nn.Sequential or not _plain(module):
        return module
    _hasten(module)
    for block in module:
        if type(block) is ResidualBlock:
            _hasten(block.body)
            block.activation.inplace = True
    return _blocked(module) if _HAS_BLOCKS[trained] else module


def _hasten(stack: nn.Sequential) -> None:
    """Change a stack's layers, or their order."""
    for n, (layer, after) in enumerate(pairwise(list(stack))):
        if type(layer) is nn.ReLU and type(after) is nn.MaxPool2d and not after.return_indices:
            stack[n], stack[n + 1] = after, layer
    for before, layer in pairwise(stack):
        if isinstance(before, nn.Conv2d | nn.Linear | nn.GroupNorm) and isinstance(layer, nn.ReLU):
            layer.inplace = True
    for n, layer in enumerate(stack):
        if type(layer) is nn.GroupNorm and layer.affine:
            stack[n] = ChannelsLastNorm(layer)
        elif type(layer) is nn.Linear:
            stack[n] = QuickLinear(layer)


def _plain(stack: nn.Sequential) -> bool:
    """Return whether nothing but the stack and its residual blocks calls a layer, and but once."""
    called, blocks = list(_called(stack)), [one for one in stack if type(one) is ResidualBlock]
    known = {id(part) for one in blocks for part in (one, one.body)}
    return len({id(layer) for layer in called}) == len(called) and not any(
        watched(layer) or (list(layer.children()) and id(layer) not in known) for layer in called
    )


def _called(stack: nn.Sequential) -> Iterator[nn.Module]:
    for layer in stack:
        yield layer
        if type(layer) is ResidualBlock:
            yield from (layer.body, *layer.body, layer.shortcut, layer.activation)


def show_all(module: nn.Module, parameters: Tensor) -> nn.Module:
    """Let what a quickened module answers be NaN where it would be, with these parameters, slowly.

    oneDNN's own ReLU and pooling make a number of what is not one.
    """
    finite = not parameters.is_cpu or math.isfinite(float(parameters.sum()))
    for layer in module.children():
        if isinstance(layer, ToBlocks):
            layer.on = finite
    return module


def _blocked(stack: nn.Sequential) -> nn.Sequential:
    """Frame every run of layers that oneDNN has and that begins with a convolution.

    A layer alone is not worth it.
    """
    framed, layers_of = nn.Sequential(), list(stack.named_children())
    inside = False
    for n, (name, layer) in enumerate(layers_of):
        after = [one for _, one in layers_of[n + 1 : n + 2]]
        if not inside and type(layer) is nn.Conv2d and all(_has(one) for one in (layer, *after)):
            inside = True
            framed.add_module(f"to blocks, {name}", ToBlocks())
        elif inside and not _has(layer):
            inside = False
            framed.add_module(f"from blocks, {name}", FromBlocks())
        framed.add_module(name, layer)
    if inside:
        framed.add_module("from blocks", FromBlocks())
    return framed


def _has(layer: nn.Module) -> bool:
    if type(layer) is nn.MaxPool2d:
        return not layer.return_indices and layer.dilation in (1, (1, 1))
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.ReLU


_LEVEL = torch.backends.cpu.get_cpu_capability() if torch.backends.mkldnn.is_available() else ""
_HAS_BLOCKS = {True: _LEVEL == "AVX512", False: _LEVEL in ("AVX2", "AVX512")}
"""Elsewhere oneDNN may have nothing but its slow reference."""
