"""The small convolutional network with twice the width."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedkd.models.base import Model, models
from fedkd.models.images import image_shape, two_convolutions


@models.register("cnn_wide")
@dataclass(frozen=True)
class CNNWide(Model):
    """Convolutions with 32 and 64 channels, then 128 hidden units."""

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a fresh module; ConfigError when the inputs are no images of 8 x 8 or more."""
        image = image_shape(input_shape, model="cnn_wide")
        return two_convolutions(image, n_classes, channels=(32, 64), hidden=128)
