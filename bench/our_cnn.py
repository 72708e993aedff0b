"""The job's convolutional network as a model of fedkd's, as a user would register one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bench import networks
from fedkd.models.base import Model, models


@models.register("bench_cnn")
@dataclass(frozen=True)
class BenchCNN(Model):
    """Two convolutions and 64 hidden units."""

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a fresh module for the job's images."""
        return networks.cnn()
