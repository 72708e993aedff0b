"""Images that lie channels last are normalised as torch does it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedkd.training.normalization import ChannelsLastNorm, gradients, normalized, pays

SHAPES = [(40, 16, 14, 13), (3, 8, 40, 40), (70, 32, 7, 7)]


def _images(shape: tuple[int, ...], *, seed: int, shift: float = 0.0) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + shift
    return drawn.double().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_torchs(shape):
    images, slopes = _images(shape, seed=0, shift=0.5), _images(shape, seed=1)
    norm = nn.GroupNorm(8, shape[1]).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    assert pays(images, 8)
    read = images.clone().requires_grad_()
    expected = norm(read)
    wanted = torch.autograd.grad(expected, [read, norm.weight, norm.bias], slopes)
    with torch.no_grad():
        made, moments = normalized(images, norm.weight, norm.bias, groups=8, eps=norm.eps)
        found = gradients(slopes, images, moments, norm.weight, groups=8)
    torch.testing.assert_close(made, expected.detach(), rtol=1e-10, atol=1e-11)
    assert made.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_group_of_equal_numbers_is_zero_before_the_bias():
    images = torch.full((9, 16, 12, 12), 3.0).contiguous(memory_format=torch.channels_last)
    made, _ = normalized(images, torch.ones(16), torch.zeros(16), groups=8, eps=1e-5)
    assert made.isfinite().all()
    assert made.abs().max() < 0.01


@pytest.mark.parametrize(
    ("shape", "layout", "groups"),
    [
        ((40, 16, 14, 13), torch.contiguous_format, 8),  # torch's own is fast there
        ((40, 16, 14, 13), torch.channels_last, 2),  # groups of eight channels
        ((2, 16, 4, 4), torch.channels_last, 8),  # small
        ((0, 16, 4, 4), torch.channels_last, 8),
    ],
)
def test_torch_does_it_where_that_is_faster(shape, layout, groups):
    images = torch.zeros(shape).contiguous(memory_format=layout)
    assert not pays(images, groups)
    assert ChannelsLastNorm(nn.GroupNorm(groups, 16))(images).shape == shape
    assert not pays(torch.zeros(50_000, 16), 8)


def test_a_module_that_takes_anothers_place_shares_its_parameters_and_lets_autograd_watch():
    plain = nn.GroupNorm(8, 16, eps=0.1).eval()
    quick, images = ChannelsLastNorm(plain), _images(SHAPES[0], seed=2).float()
    assert (quick.weight, quick.bias, quick.training) == (plain.weight, plain.bias, False)
    with torch.no_grad():
        assert not torch.equal(quick(images), plain(images))  # another order of sums
        torch.testing.assert_close(quick(images), plain(images), rtol=1e-4, atol=1e-5)
    images.requires_grad_()
    assert torch.equal(quick(images), plain(images))
    quick(images).sum().backward()
    assert images.grad is not None
    assert plain.weight.grad is not None
