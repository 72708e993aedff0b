"""A residual network of eight layers with group normalisation.

The CIFAR form of He et al. 2016, https://arxiv.org/abs/1512.03385, one block a stage; normalised
by Wu & He 2018, https://arxiv.org/abs/1803.08494, since batch statistics leak between examples
and differ between clients.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fedkd.models.base import Model, models
from fedkd.models.images import image_shape

_GROUPS = 8
_LARGE_SIDE = 28


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; a 1 x 1 convolution where the shape changes."""

    def __init__(self, n_inputs: int, n_outputs: int, *, stride: int) -> None:
        super().__init__()  # nn.Module asks for it
        self.body = nn.Sequential(
            _convolution(n_inputs, n_outputs, stride=stride),
            nn.GroupNorm(_GROUPS, n_outputs),
            nn.ReLU(),
            _convolution(n_outputs, n_outputs, stride=1),
            nn.GroupNorm(_GROUPS, n_outputs),
        )
        same = n_inputs == n_outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Conv2d(n_inputs, n_outputs, 1, stride=stride, bias=False)
        )
        self.activation = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[n, inputs, h, w]`` to ``[n, outputs, h / stride, w / stride]``, rounded up."""
        return self.activation(self.body(inputs) + self.shortcut(inputs))


@models.register("resnet8")
@dataclass(frozen=True)
class ResNet8(Model):
    """Three stages of 16, 32 and 64 channels, one residual block each, then a global average.

    The first convolution halves images of 28 pixels or more a side, which cuts the cost fourfold.
    """

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a fresh module; ConfigError when the inputs are no images of 8 x 8 or more."""
        channels, height, width = image_shape(input_shape, model="resnet8")
        large = min(height, width) >= _LARGE_SIDE
        return nn.Sequential(
            _convolution(channels, 16, stride=2 if large else 1),
            nn.GroupNorm(_GROUPS, 16),
            nn.ReLU(),
            ResidualBlock(16, 16, stride=1),
            ResidualBlock(16, 32, stride=2),
            ResidualBlock(32, 64, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, n_classes),
        )


def _convolution(n_inputs: int, n_outputs: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(n_inputs, n_outputs, kernel_size=3, stride=stride, padding=1, bias=False)
