"""What the models of tokens share: the check that inputs are sequences."""

from __future__ import annotations

from fedkd.errors import ConfigError


def positions_of(input_shape: tuple[int, ...], *, model: str) -> int:
    """Return the positions of a sequence; ConfigError when inputs are none."""
    if len(input_shape) != 1:
        raise ConfigError(
            f"models={model} needs sequences of tokens (positions,), got inputs of shape "
            f"{input_shape}; use models=cnn_small for images, or data=gutenberg_mini"
        )
    return input_shape[0]
