"""Distances, centroids and held-out rows: the geometry that distance filters share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkd.filters.base import ClientView
from fedkd.filters.lloyd import Points, lloyd
from fedkd.threads import one_thread

MIN_PRIVATE = 5
"""A client with fewer private rows gets no geometry: there is nothing to calibrate with."""
SMALL = 40_000
"""Up to this many numbers, centroids of many sets are found side by side."""


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Wanted:
    """Rows that want centroids.

    Attributes:
        rows: float32 ``[n, d]``, at least one.
        n_clusters: wanted number; capped by the number of distinct rows.
        rng: draws the seed.
    """

    rows: Tensor
    n_clusters: int
    rng: torch.Generator


def centroids_of(rows: Tensor, n_clusters: int, *, rng: torch.Generator) -> Tensor:
    """Return KMeans centroids, float32 ``[clusters, d]``, started from a seed drawn from ``rng``.

    Args:
        rows: float32 ``[n, d]``, at least one.
        n_clusters: wanted number; capped by the number of distinct rows.
        rng: draws the seed.
    """
    return centroids_of_all([Wanted(rows=rows, n_clusters=n_clusters, rng=rng)])[0]


def centroids_of_all(wanted: Sequence[Wanted]) -> list[Tensor]:
    """Return the centroids of each, as :func:`centroids_of` would, in less time for small sets.

    By its own size alone, a set goes to scikit-learn or, together with others, to :mod:`lloyd`,
    which does the same; so nothing depends on what else is asked for.
    """
    sets = [_points(one) for one in wanted]
    small = [i for i, points in enumerate(sets) if _is_small(points)]
    tried = zip(small, lloyd([sets[i] for i in small]), strict=True)
    found = {i: centers for i, centers in tried if centers is not None}
    missing = [i for i in range(len(sets)) if i not in found]
    found |= zip(missing, _by_scikit_learn([sets[i] for i in missing]), strict=True)
    return [found[i] for i in range(len(sets))]


def _is_small(points: Points) -> bool:
    """Return whether a set is one for a batch; numbers that are not finite scikit-learn refuses."""
    return points.rows.numel() <= SMALL and bool(torch.isfinite(points.rows).all())


def _points(wanted: Wanted) -> Points:
    seed = int(torch.randint(2**31 - 1, (1,), generator=wanted.rng))
    distinct = len({point.tobytes() for point in wanted.rows.cpu().numpy()})
    return Points(rows=wanted.rows, n_clusters=min(wanted.n_clusters, distinct), seed=seed)


def _by_scikit_learn(sets: Sequence[Points]) -> list[Tensor]:
    if not sets:
        return []
    # Seconds to import, so only when fitting; scikit-learn has no types.
    from sklearn.cluster import KMeans  # pyright: ignore[reportMissingTypeStubs]

    build: Any = KMeans
    found: list[Tensor] = []
    with one_thread():
        for points in sets:
            solver = build(points.n_clusters, n_init=1, random_state=points.seed)
            solver.fit(points.rows.cpu().numpy())
            centers: Any = solver.cluster_centers_
            found.append(torch.as_tensor(centers, dtype=torch.float32, device=points.rows.device))
    return found


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
