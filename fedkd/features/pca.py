"""Principal components of the proxy set: the few directions in which it varies most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from fedkd.features.base import Features, Transform, features
from fedkd.features.raw import flat, standardisation
from fedkd.rng import borrowed
from fedkd.threads import one_thread

SPARE, STEPS = 10, 8
"""Directions that are tracked beyond the wanted ones, and passes over the rows and back."""


@features.register("pca")
@dataclass(frozen=True)
class PCA(Features):
    """Projection onto the leading components of the proxy set, not whitened.

    Columns are centred and divided by one overall scale (never by one scale each, and components
    are not whitened: :func:`fedkd.features.raw.standardisation` has the measurements).

    Attributes:
        components: how many directions to keep; capped by the proxy set's rows and columns.
    """

    components: Annotated[int, Ge(1)] = 50

    def fit(self, proxy_inputs: Tensor) -> Transform:
        """Return the transform to ``[n, components]``; ConfigError for an empty proxy set."""
        rows = flat(proxy_inputs)
        mean, scale = standardisation(rows)
        directions = _directions((rows - mean) / scale, self.components)
        projection = directions.T.to(rows.device) / scale
        offset = -(mean @ projection)

        def transform(inputs: Tensor) -> Tensor:
            device = inputs.device
            return torch.addmm(offset.to(device), flat(inputs), projection.to(device))

        return transform


def _directions(rows: Tensor, n_components: int) -> Tensor:
    """Return orthonormal ``[components, columns]`` by randomized subspace iteration.

    Algorithm 5.1 of Halko et al. 2011, https://arxiv.org/abs/0909.4061; its draws are fixed.
    """
    matrix = rows.cpu()
    n_components = min(n_components, *matrix.shape)
    width = min(n_components + SPARE, *matrix.shape)
    with borrowed(torch.Generator().manual_seed(0)), one_thread():
        _, _, directions = torch.svd_lowrank(matrix, q=width, niter=STEPS)
    return directions[:, :n_components].T.contiguous()
