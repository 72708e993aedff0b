"""Layers that overwrite and gradients that lie well: the same numbers, and nobody else's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fedkd.models.base import models
from fedkd.training.quickening import gradients_channels_last, in_place

IMAGES = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0)).double()


class _Reader(nn.Module):
    """A module that reads what a layer of its stack made, after the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(12, 12), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        wide = self.stack[0](inputs)
        return self.stack[1](wide) - wide


def _gradients(module: nn.Module) -> list[Tensor]:
    images = IMAGES.to(next(module.parameters()).dtype)
    logits = module(images.contiguous(memory_format=torch.channels_last))
    return list(torch.autograd.grad(logits.square().sum(), list(module.parameters())))


@pytest.mark.parametrize("name", ["mlp", "cnn_small", "cnn_wide", "resnet8"])
def test_the_numbers_stay(name):
    plain = models.get(name)().build((1, 12, 12), 4).double()
    quick = in_place(copy.deepcopy(plain))
    with torch.no_grad():
        assert torch.equal(quick(IMAGES), plain(IMAGES))
    with gradients_channels_last(quick):
        found = _gradients(quick)
    for one, other in zip(found, _gradients(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_only_what_nobody_else_reads_is_overwritten():
    stack = nn.Sequential(nn.Flatten(), nn.Linear(3, 3), nn.ReLU(), nn.Sigmoid(), nn.ReLU())
    assert [layer.inplace for layer in in_place(stack) if isinstance(layer, nn.ReLU)] == [
        True,
        False,
    ]
    reader = _Reader()
    for module in (in_place(reader), in_place(nn.Sequential(reader, nn.Linear(12, 12), nn.ReLU()))):
        assert not any(getattr(layer, "inplace", False) for layer in module.modules())


def test_gradients_of_images_lie_as_the_images_do():
    stack = models.get("cnn_small")().build((1, 12, 12), 4).to(memory_format=torch.channels_last)
    seen: list[Tensor] = []
    stack[3].register_full_backward_hook(lambda layer, made, read: seen.append(read[0]))
    _gradients(stack)
    with gradients_channels_last(stack):
        _gradients(stack)
    _gradients(stack)
    last = [one.is_contiguous(memory_format=torch.channels_last) for one in seen]
    assert last == [False, True, False]
