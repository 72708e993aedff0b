"""What the image models share: a check of the input's shape and a net of two convolutions."""

from __future__ import annotations

from torch import nn

from fedkd.errors import ConfigError

MIN_SIDE = 8
"""Smallest height and width, in pixels, that the convolutional models take."""


def image_shape(input_shape: tuple[int, ...], *, model: str) -> tuple[int, int, int]:
    """Return (channels, height, width); ConfigError when it is no image or below 8 x 8."""
    if len(input_shape) != 3 or min(input_shape[1:]) < MIN_SIDE:
        raise ConfigError(
            f"models={model} needs images (channels, height, width) of at least {MIN_SIDE} x "
            f"{MIN_SIDE} pixels, got inputs of shape {input_shape}; use models=mlp"
        )
    channels, height, width = input_shape
    return channels, height, width


def two_convolutions(
    image: tuple[int, int, int], n_classes: int, *, channels: tuple[int, int], hidden: int
) -> nn.Sequential:
    """Return two strided convolutions and two linear layers, with ReLU between.

    Args:
        image: (channels, height, width).
        n_classes: number of logits.
        channels: outputs of the two convolutions.
        hidden: units between the linear layers.
    """
    first, second = channels
    height, width = (-(-side // 4) for side in image[1:])  # both convolutions halve, rounding up
    return nn.Sequential(
        nn.Conv2d(image[0], first, kernel_size=5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(first, second, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * height * width, hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_classes),
    )
