"""What makes a plain stack of layers faster on a processor, and changes nothing but rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn


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

    Only a plain stack changes: another module could call the layers of its parts by itself, and a
    layer that is called twice or has hooks is seen elsewhere.

    - Pooling goes before ReLU. The largest of some numbers that are not negative is the same as
      what ReLU makes of the largest number, and so are the gradients, but there is less to do.
    - ReLUs overwrite what the layer before them made, where nobody else reads that.
    - Convolutions and what is between them work in oneDNN's own layout, where that is faster:
      without AVX-512 it is not for what is ``trained``.
    """
    if type(module) is not nn.Sequential or not _plain(list(module)) or watched(module):
        return module
    for n, (layer, after) in enumerate(pairwise(list(module))):
        if type(layer) is nn.ReLU and type(after) is nn.MaxPool2d and not after.return_indices:
            module[n], module[n + 1] = after, layer
    for before, layer in pairwise(module):
        if isinstance(before, nn.Conv2d | nn.Linear) and isinstance(layer, nn.ReLU):
            layer.inplace = True
    return _blocked(module) if _HAS_BLOCKS[trained] else module


def _plain(stack: list[nn.Module]) -> bool:
    apart = len({id(layer) for layer in stack}) == len(stack)
    return apart and not any(list(layer.children()) or watched(layer) for layer in stack)


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
    """Frame every run of layers that oneDNN has and that begins with a convolution."""
    framed = nn.Sequential()
    inside = False
    for name, layer in stack.named_children():
        if not inside and type(layer) is nn.Conv2d and _has(layer):
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
