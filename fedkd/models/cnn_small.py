"""A small convolutional network for images, cheap enough for a phone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedkd.models.base import Model, models
from fedkd.models.images import image_shape, two_convolutions


@models.register("cnn_small")
@dataclass(frozen=True)
class CNNSmall(Model):
    """Convolutions with 16 and 32 channels, then 64 hidden units."""

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a fresh module; ConfigError when the inputs are no images of 8 x 8 or more."""
        image = image_shape(input_shape, model="cnn_small")
        return two_convolutions(image, n_classes, channels=(16, 32), hidden=64)
