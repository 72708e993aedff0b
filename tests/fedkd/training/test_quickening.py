"""Stacks of layers that are quicker: the same numbers, and nobody else's are overwritten."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fedkd.models.base import models
from fedkd.models.resnet8 import ResidualBlock
from fedkd.training.normalization import ChannelsLastNorm
from fedkd.training.quickening import ToBlocks, quickened, show_all

IMAGES = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0)).double()


class _Reader(nn.Module):
    """A module that reads what a layer of its stack made, after the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(12, 12), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        wide = self.stack[0](inputs)
        return self.stack[1](wide) - wide


class _Stack(nn.Sequential):
    """A stack that does more than call its layers."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + self[0](input)


def _pooled() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(3, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def _gradients(module: nn.Module, images: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(module(images).square().sum(), list(module.parameters())))


def _kinds(module: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in module.children()]


@pytest.mark.parametrize("name", ["mlp", "cnn_small", "cnn_wide", "resnet8", "pooled"])
def test_the_numbers_stay(name):
    plain = _pooled() if name == "pooled" else models.get(name)().build((1, 12, 12), 4)
    plain = plain.double()
    quick = quickened(copy.deepcopy(plain), trained=True)
    flat = torch.cat([IMAGES, torch.zeros_like(IMAGES)])  # all of a window may be equal
    assert torch.equal(quick(flat), plain(flat))
    for one, other in zip(_gradients(quick, flat), _gradients(plain, flat), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert list(quick.state_dict()) == list(plain.state_dict())


def test_pooling_goes_before_relu():
    quick = quickened(_pooled(), trained=True)
    inner = [kind for kind in _kinds(quick) if kind in (nn.Conv2d, nn.MaxPool2d, nn.ReLU)]
    assert inner == [nn.Conv2d, nn.MaxPool2d, nn.ReLU] * 2
    telling = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2, return_indices=True))
    kinds = _kinds(quickened(telling, trained=True))
    assert kinds.index(nn.ReLU) < kinds.index(nn.MaxPool2d)


def test_only_what_nobody_else_reads_is_overwritten():
    stack = nn.Sequential(nn.Flatten(), nn.Linear(3, 3), nn.ReLU(), nn.Sigmoid(), nn.ReLU())
    assert [
        layer.inplace for layer in quickened(stack, trained=True) if isinstance(layer, nn.ReLU)
    ] == [
        True,
        False,
    ]
    reader = _Reader()
    for module in (
        reader,
        nn.Sequential(reader, nn.Linear(12, 12), nn.ReLU()),
        _Stack(nn.Linear(12, 12), nn.ReLU()),
    ):
        quick = quickened(module, trained=True)
        assert not any(getattr(layer, "inplace", False) for layer in quick.modules())


def test_what_is_in_a_residual_block_is_quickened_too():
    plain = models.get("resnet8")().build((1, 12, 12), 4)
    quick = quickened(copy.deepcopy(plain), trained=False)
    block = next(layer for layer in quick if isinstance(layer, ResidualBlock))
    norms = [layer for layer in quick.modules() if isinstance(layer, nn.GroupNorm)]
    assert {type(layer) for layer in norms} == {ChannelsLastNorm}
    assert block.activation.inplace
    assert [layer.inplace for layer in block.body if isinstance(layer, nn.ReLU)] == [True]
    assert list(quick.state_dict()) == list(plain.state_dict())
    images = torch.cat([IMAGES] * 4).float().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(quick(images), plain(images), rtol=1e-5, atol=1e-6)
    watched = copy.deepcopy(plain)
    watched[3].body[1].register_forward_hook(lambda layer, read, made: made)
    assert quickened(watched, trained=False) is watched
    assert not any(isinstance(layer, ChannelsLastNorm) for layer in watched.modules())


def test_a_layer_that_is_called_twice_or_watched_is_left_alone():
    relu, seen = nn.ReLU(), list[Tensor]()
    twice = nn.Sequential(nn.Conv2d(1, 3, 3), relu, nn.Conv2d(3, 3, 3), nn.Sigmoid(), relu)
    watched = _pooled()
    watched[0].register_forward_hook(lambda layer, read, made: seen.append(made))
    for module in (twice, watched):
        expected = module(IMAGES.float())
        quick = quickened(module, trained=False)
        assert quick is module
        assert not relu.inplace
        assert torch.equal(quick(IMAGES.float()), expected)
    assert len(seen) == 2


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("name", ["cnn_small", "cnn_wide", "pooled"])
def test_single_precision_differs_by_rounding_alone(name, trained):
    plain = _pooled() if name == "pooled" else models.get(name)().build((1, 12, 12), 4)
    quick = quickened(copy.deepcopy(plain), trained=trained)
    images = IMAGES.float()
    torch.testing.assert_close(quick(images), plain(images), rtol=1e-5, atol=1e-6)
    assert quick(images[:0]).shape == (0, 4)
    for one, other in zip(_gradients(quick, images), _gradients(plain, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_layers_without_images_are_left_as_they_are():
    for name in ("mlp", "resnet8"):
        quick = quickened(models.get(name)().build((1, 12, 12), 4), trained=False)
        assert not any(isinstance(layer, ToBlocks) for layer in quick.modules())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_shows(bad):
    plain = models.get("cnn_small")().build((1, 12, 12), 4)
    quick, images = quickened(copy.deepcopy(plain), trained=False), IMAGES.float()
    with torch.no_grad():
        for module in (plain, quick):
            next(module.parameters())[0] = bad
        parameters = nn.utils.parameters_to_vector(plain.parameters())
        expected = plain(images)
        found = show_all(quick, parameters)(images)
        torch.testing.assert_close(found, expected, equal_nan=True)
        assert not expected.isfinite().any()
        assert show_all(quick, torch.zeros_like(parameters)) is quick
        assert all(layer.on for layer in quick if isinstance(layer, ToBlocks))
