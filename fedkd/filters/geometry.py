"""Distances, centroids and held-out rows: the geometry that distance filters share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedkd.filters.base import ClientView
from fedkd.threads import one_thread

MIN_PRIVATE = 5
"""A client with fewer private rows gets no geometry: there is nothing to calibrate with."""


def calibration_split(
    view: ClientView, *, fraction: float, rng: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """Set some private rows aside to calibrate a threshold on.

    Distances of rows that a model was fitted on are too small, and contributed rows are part of
    the proxy set itself; a threshold from either would be too strict for everything else. So the
    calibration rows are drawn from the rows that were not contributed, and nothing is fitted on
    them.

    Args:
        view: the client.
        fraction: share of the rows that were not contributed; at least one row, and at least two
            rows remain to be fitted on.
        rng: draws the rows.

    Returns:
        Features to fit on and features to calibrate with, or None when the client has fewer than
        ``MIN_PRIVATE`` rows or has contributed them all.
    """
    n_rows = view.private.shape[0]
    free = torch.nonzero(~view.contributed).flatten()
    if n_rows < MIN_PRIVATE or len(free) == 0:
        return None
    size = min(max(1, round(fraction * len(free))), n_rows - 2)
    order = torch.randperm(len(free), generator=rng).to(free.device)
    held_out = free[order[:size]]
    fitted = torch.ones_like(view.contributed)
    fitted[held_out] = False
    return view.private[fitted], view.private[held_out]


def centroids_of(rows: Tensor, n_clusters: int, *, rng: torch.Generator) -> Tensor:
    """Return KMeans centroids, float32 ``[clusters, d]``, started from a seed drawn from ``rng``.

    Args:
        rows: float32 ``[n, d]``, at least one.
        n_clusters: wanted number; capped by the number of distinct rows.
        rng: draws the seed.
    """
    # Seconds to import, so only when fitting; scikit-learn has no types.
    from sklearn.cluster import KMeans  # pyright: ignore[reportMissingTypeStubs]

    build: Any = KMeans
    seed = int(torch.randint(2**31 - 1, (1,), generator=rng))
    points = rows.cpu().numpy()
    distinct = len({point.tobytes() for point in points})
    solver = build(min(n_clusters, distinct), n_init=1, random_state=seed)
    with one_thread():
        solver.fit(points)
    return torch.as_tensor(solver.cluster_centers_, dtype=torch.float32, device=rows.device)


def nearest(points: Tensor, centers: Tensor) -> Tensor:
    """Return each point's Euclidean distance to its nearest center, ``[n]``; inf without centers.

    Args:
        points: float32 ``[n, d]``.
        centers: float32 ``[clusters, d]``; one matrix product serves all pairs.
    """
    if centers.shape[0] == 0:
        return points.new_full((points.shape[0],), torch.inf)
    pairs = torch.cdist(points, centers, compute_mode="use_mm_for_euclid_dist")
    return pairs.min(dim=1).values
