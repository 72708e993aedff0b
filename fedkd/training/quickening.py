"""What makes a plain stack of layers faster on a processor, with the same numbers."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def quickened(module: nn.Module) -> nn.Module:
    """Change a module in place and return it: ReLUs after pooling, and overwriting.

    The largest of some numbers that are not negative is the same as what ReLU makes of the largest
    number, and so are both gradients, but pooling first leaves it a quarter to do. ReLUs overwrite
    what the layer before them made, where nobody else reads that. Only in a plain stack of layers:
    another module could call the layers of its parts by itself.
    """
    if type(module) is not nn.Sequential or any(list(layer.children()) for layer in module):
        return module
    for n, (layer, after) in enumerate(pairwise(list(module))):
        if type(layer) is nn.ReLU and type(after) is nn.MaxPool2d and not after.return_indices:
            module[n], module[n + 1] = after, layer
    for before, layer in pairwise(module):
        if isinstance(before, nn.Conv2d | nn.Linear | nn.MaxPool2d) and isinstance(layer, nn.ReLU):
            layer.inplace = True
    return module
