"""Principal components of the proxy set: the few directions in which it varies most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from fedkd.features.base import Features, Transform, features
from fedkd.features.raw import flat, standardisation
from fedkd.threads import one_thread


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
    """Return orthonormal ``[components, columns]``; the solver's draws are fixed."""
    n_components = min(n_components, *rows.shape)
    if not rows.any():  # equal rows vary in no direction, so any will do
        return torch.eye(n_components, rows.shape[1])
    # Seconds to import, so only when fitting; scikit-learn has no types.
    from sklearn.decomposition import PCA as Solver  # pyright: ignore[reportMissingTypeStubs]

    build: Any = Solver
    solver = build(n_components, random_state=0)
    with one_thread():
        solver.fit(rows.cpu().numpy())
    return torch.as_tensor(solver.components_, dtype=torch.float32)
