"""Group normalisation of images that lie channels last, by sums and products over whole batches.

torch's own loops are as long as a group has channels, there, and with two or four of them take a
few times as long as these passes over everything.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Moments(NamedTuple):
    """What was measured of a batch: of each image's group, told to each of its channels.

    Attributes:
        mean: ``[n, channels]``.
        rate: one over the standard deviation, ``[n, channels]``.
    """

    mean: Tensor
    rate: Tensor


class ChannelsLastNorm(nn.GroupNorm):
    """``nn.GroupNorm``, faster on images that lie channels last where autograd does not watch.

    Args:
        like: what it takes the place of; its weight and bias are this one's, too.
    """

    def __init__(self, like: nn.GroupNorm) -> None:
        super().__init__(like.num_groups, like.num_channels, eps=like.eps)
        self.weight, self.bias = like.weight, like.bias
        self.train(like.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[n, channels, height, width]``, or whatever GroupNorm can."""
        if torch.is_grad_enabled() or not pays(input, self.num_groups):
            return super().forward(input)
        return normalized(input, self.weight, self.bias, groups=self.num_groups, eps=self.eps)[0]


def pays(images: Tensor, groups: int) -> bool:
    """Return whether :func:`normalized` is faster than torch, and possible."""
    if images.dim() != _IMAGES or images.device.type != "cpu":
        return False
    each = images.shape[1] // groups
    by_channels = images.is_contiguous(memory_format=torch.channels_last)
    few = each <= _FEW and images.numel() > _LEAST * each
    return few and by_channels and not images.is_contiguous()


def normalized(
    images: Tensor, weight: Tensor, bias: Tensor, *, groups: int, eps: float
) -> tuple[Tensor, Moments]:
    """Return normalised images, ``[n, channels, height, width]`` channels last, and their moments.

    Variances are of sums of squares, as torch's are for this layout.
    """
    read = _rows(images)
    averages = _averages(read, groups)
    mean = read.sum(dim=1) @ averages
    square = (read * read).sum(dim=1) @ averages
    rate = square.addcmul_(mean, mean, value=-1).clamp_min_(0).add_(eps).rsqrt_()
    scale = rate * weight
    shift = torch.addcmul(bias, mean, scale, value=-1)
    made = torch.addcmul(shift[:, None], read, scale[:, None])
    return _images(made, images), Moments(mean=mean, rate=rate)


def gradients(
    slopes: Tensor, images: Tensor, moments: Moments, weight: Tensor, *, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the images, the weight and the bias.

    ``slopes`` are that of what :func:`normalized` made, and lie like it.
    """
    read, sloped = _rows(images), _rows(slopes)
    averages = _averages(read, groups)
    mean, rate = moments
    sums, products = sloped.sum(dim=1), (sloped * read).sum(dim=1)
    level = (sums * weight) @ averages
    tilt = ((products * weight) @ averages).addcmul_(level, mean, value=-1)
    of_read = tilt.mul_(rate).mul_(rate).mul_(rate).neg_()
    constant = (level * rate).addcmul_(of_read, mean).neg_()
    back = torch.addcmul(constant[:, None], read, of_read[:, None])
    back.addcmul_(sloped, (rate * weight)[:, None])
    of_weight = products.addcmul_(sums, mean, value=-1).mul_(rate).sum(dim=0)
    return _images(back, images), of_weight, sums.sum(dim=0)


def _rows(images: Tensor) -> Tensor:
    """View ``[n, channels, height, width]`` as ``[n, positions, channels]``."""
    return images.permute(0, 2, 3, 1).flatten(1, 2)


def _images(rows: Tensor, like: Tensor) -> Tensor:
    n, channels, height, width = like.shape
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


def _averages(read: Tensor, groups: int) -> Tensor:
    """Return the matrix that turns sums over positions into means over groups of channels."""
    _, positions, channels = read.shape
    return _averages_of(positions, channels // groups, groups, read.dtype)


@lru_cache(maxsize=64)
def _averages_of(positions: int, each: int, groups: int, dtype: torch.dtype) -> Tensor:
    one = torch.full((each, each), 1 / (positions * each), dtype=dtype)
    return torch.block_diag(*[one] * groups)


_IMAGES = 4
"""Dimensions of a batch of images."""
_FEW, _LEAST = 4, 8_000
"""Channels of a group up to which it pays; and the numbers of a batch, for each of them."""
