"""Layers differentiated by hand give what autograd gives, and what is not known is left to it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedkd.models.base import models
from fedkd.models.resnet8 import ResidualBlock
from fedkd.training.executors.chain import Chain
from fedkd.training.executors.networks import Network, Whole
from fedkd.training.packing import Packing
from fedkd.training.quickening import quickened
from fedkd.training.recipe import OptimizerName, Training

PLAIN = Training(optimizer=OptimizerName.SGD, momentum=0)
IMAGES, ROWS = (2, 9, 8), (6,)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def _stacks() -> dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]]:
    return {
        "linear": (ROWS, lambda: nn.Linear(6, 4)),
        "rows": (
            ROWS,
            lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 4)),
        ),
        "positions": ((3, 6), lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))),
        "first without parameters": (
            IMAGES,
            lambda: nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)),
        ),
        "ends with relu": (ROWS, lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True))),
        "nested": (
            IMAGES,
            lambda: nn.Sequential(
                nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU()),
                nn.Sequential(nn.MaxPool2d((3, 2), stride=2, padding=(1, 0), ceil_mode=True)),
                nn.Conv2d(4, 3, (3, 2), stride=(2, 1), dilation=(1, 2), bias=False),
                nn.ReLU(inplace=True),
                nn.Flatten(),
                nn.Linear(12, 4),
            ),
        ),
        "residual": (
            IMAGES,
            lambda: nn.Sequential(
                nn.Conv2d(2, 8, 3, padding=1, bias=False),
                nn.GroupNorm(4, 8),
                nn.ReLU(),
                ResidualBlock(8, 8, stride=1),
                ResidualBlock(8, 16, stride=2),
                nn.AdaptiveAvgPool2d((1, 1)),
                nn.Flatten(),
                nn.Linear(16, 4),
            ),
        ),
        "begins with a block": (
            (8, 6, 5),
            lambda: nn.Sequential(ResidualBlock(8, 8, stride=2), nn.Flatten(), nn.Linear(72, 4)),
        ),
        "points": (
            IMAGES,
            lambda: nn.Sequential(
                nn.Conv2d(2, 3, 1, stride=(2, 3)),
                nn.Conv2d(3, 4, 1),
                nn.Flatten(),
                nn.Linear(60, 4),
            ),
        ),
        "normalised": (
            IMAGES,
            lambda: nn.Sequential(
                nn.Conv2d(2, 4, 2), nn.GroupNorm(1, 4), nn.Flatten(), nn.Linear(224, 4)
            ),
        ),
        "normalised rows": (ROWS, lambda: nn.Sequential(nn.GroupNorm(3, 6), nn.Linear(6, 4))),
    }


def _network(
    kind: type[Chain | Whole], module: nn.Module
) -> tuple[Network[list[Tensor]], Packing, Tensor]:
    packing = Packing(module, PLAIN)
    row = torch.zeros(1, packing.width).double()
    packing.write(row[0], module)
    same = copy.deepcopy(module)
    return Chain(packing, same, most=1) if kind is Chain else Whole(packing, same), packing, row


def _laid_out(inputs: Tensor, layout: torch.memory_format) -> Tensor:
    return inputs.contiguous(memory_format=layout) if inputs.dim() == 4 else inputs.clone()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [Chain, Whole])
@pytest.mark.parametrize("name", list(_stacks()))
def test_gradients_are_those_of_autograd(name, kind, layout):
    shape, make = _stacks()[name]
    torch.manual_seed(0)
    module = make().double()
    assert Chain.fits(module)
    network, packing, row = _network(kind, module)
    values, inputs = packing.values(row), _draw(5, *shape)
    logits = network.logits(values, [_laid_out(inputs, layout).clone()])
    expected = module(inputs)
    torch.testing.assert_close(logits[0], expected.detach(), rtol=1e-12, atol=1e-12)
    slopes = _draw(*expected.shape, seed=1)
    found = torch.full_like(values, torch.nan)
    network.backward([slopes.clone()], found, keep=0, scale=1)
    gradients = torch.autograd.grad(expected, list(module.parameters()), slopes)
    for part, gradient in zip(packing.parts, gradients, strict=True):
        torch.testing.assert_close(part.of(found[0]), gradient, rtol=1e-11, atol=1e-12)
    before = values.clone()  # and into the parameters themselves, for another batch of another size
    more = _draw(3, *shape, seed=2)
    slopes = _draw(*network.logits(values, [_laid_out(more, layout).clone()])[0].shape, seed=3)
    network.backward([slopes.clone()], values, keep=1, scale=-0.5)
    gradients = torch.autograd.grad(module(more), list(module.parameters()), slopes)
    for part, gradient in zip(packing.parts, gradients, strict=True):
        stepped = part.of(before[0]) - 0.5 * gradient
        torch.testing.assert_close(part.of(values[0]), stepped, rtol=1e-11, atol=1e-12)


def _pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d((3, 2), stride=2, padding=(1, 0), ceil_mode=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 2, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 4),
    )


@pytest.mark.parametrize(
    ("make", "shape", "n"),
    [(_pooled, IMAGES, 6), (lambda: models.get("resnet8")().build((3, 20, 20), 4), (3, 20, 20), 6)],
)
def test_a_quickened_stack_has_the_gradients_of_the_plain_one(make, shape, n):
    """In single precision, in oneDNN's own layout where it has one, or channels last."""
    torch.manual_seed(0)
    module = make()
    packing = Packing(module, PLAIN)
    row = torch.zeros(1, packing.width)
    packing.write(row[0], module)
    quick = quickened(copy.deepcopy(module), trained=True)
    assert Chain.fits(quick)
    network, values = Chain(packing, quick, most=1), packing.values(row)
    inputs, slopes = _draw(n, *shape).float(), _draw(n, 4, seed=1).float()
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    expected = module(inputs)
    torch.testing.assert_close(
        network.logits(values, [inputs])[0], expected.detach(), rtol=1e-5, atol=1e-6
    )
    found = torch.empty_like(values)
    network.backward([slopes.clone()], found, keep=0, scale=1)
    gradients = torch.autograd.grad(expected, list(module.parameters()), slopes)
    for part, gradient in zip(packing.parts, gradients, strict=True):
        torch.testing.assert_close(part.of(found[0]), gradient, rtol=1e-4, atol=1e-5)


class _Scaled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class _Twice(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(super().forward(input))


def _hooked() -> nn.Module:
    stack = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    stack[0].register_forward_hook(lambda layer, read, made: 2 * made)
    return stack


def _tied() -> nn.Module:
    stack = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    stack[2].weight = stack[0].weight
    return stack


class _Gated(ResidualBlock):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * inputs


def _watched_inside() -> nn.Module:
    block = ResidualBlock(8, 8, stride=1)
    block.body[0].register_forward_hook(lambda layer, read, made: 2 * made)
    return nn.Sequential(block)


def _tied_inside() -> nn.Module:
    block = ResidualBlock(8, 8, stride=1)
    block.body[3] = block.body[0]
    return nn.Sequential(block)


@pytest.mark.parametrize(
    "make",
    [
        _tied,
        _hooked,
        _watched_inside,
        _tied_inside,
        lambda: nn.Sequential(_Gated(8, 8, stride=1)),
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 4)),
        lambda: nn.Sequential(nn.GroupNorm(2, 4, affine=False), nn.Linear(4, 4)),
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh()),
        lambda: nn.Sequential(_Scaled(6, 6)),
        lambda: _Twice(nn.Linear(6, 6), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding="same"), nn.Flatten()),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")),
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Flatten(0)),
        lambda: nn.Sequential(nn.ReLU()),
    ],
)
def test_what_is_not_known_is_not_taken(make):
    assert not Chain.fits(make())


@pytest.mark.parametrize("make", [_tied, _hooked])
def test_autograd_takes_what_is_not_known(make):
    torch.manual_seed(0)
    module = make().double()
    network, packing, row = _network(Whole, module)
    inputs, slopes = _draw(5, 6), _draw(5, 6, seed=1)
    network.logits(packing.values(row), [inputs])
    found = torch.empty_like(packing.values(row))
    network.backward([slopes], found, keep=0, scale=1)
    gradients = torch.autograd.grad(module(inputs), list(module.parameters()), slopes)
    for part, gradient in zip(packing.parts, gradients, strict=True):
        torch.testing.assert_close(part.of(found[0]), gradient, rtol=1e-12, atol=1e-12)


def test_a_parameter_that_no_logit_depends_on_stays():
    class _Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.used(inputs)

    network, packing, row = _network(Whole, _Idle().double())
    values = packing.values(row)
    before = values.clone()
    network.logits(values, [_draw(5, 6)])
    network.backward([_draw(5, 4, seed=1)], values, keep=1, scale=-0.1)
    for part in packing.parts:
        same = torch.equal(part.of(values[0]), part.of(before[0]))
        assert same == part.name.startswith("idle")
