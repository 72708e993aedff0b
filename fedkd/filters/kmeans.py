"""A client speaks about what it contributed and about what lies close to its own data.

The client-side filter of EdgeFD, Mujtaba et al. 2025, https://arxiv.org/abs/2508.14769.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from fedkd.features.base import Features
from fedkd.features.pca import PCA
from fedkd.filters.base import ClientView, Filter, FilterState, filters
from fedkd.filters.geometry import Wanted, calibration_split, centroids_of_all, nearest


class Score(StrEnum):
    """How far a row is from a client: larger is farther."""

    DISTANCE = "distance"
    RATIO = "ratio"


@filters.register("kmeans")
@dataclass(frozen=True)
class KMeansFilter(Filter):
    """Keep a row iff it is one's own or its score is at most a quantile of held-out scores.

    The threshold controls how many rows *like the client's own* are kept, about ``quantile`` of
    them; how many foreign rows slip through is up to the geometry. Too few private rows, or none
    that was not contributed, leave the own-contribution rule alone.

    Privacy: which rows are kept tells about the private data, and the own-contribution rule tells
    who contributed a row. No formal guarantee.

    Attributes:
        features: space in which distances are measured.
        clusters_per_class: centroids for each class held; at least 20 rows stand behind one.
        quantile: of held-out private scores, in (0, 1]; small keeps little.
        score: ``distance`` to the nearest own centroid, as in the paper, or its ``ratio`` to the
            distance to the nearest of ten times as many centroids of the whole proxy set.
        own_rule: keep one's own contributions whatever their score.
        calibration_fraction: share of the uncontributed private rows held out.
    """

    features: Features = field(default_factory=PCA)
    clusters_per_class: Annotated[int, Ge(1)] = 10
    quantile: Annotated[float, Gt(0), Le(1)] = 0.5
    score: Score = Score.DISTANCE
    own_rule: bool = True
    calibration_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1

    @property
    def space(self) -> Features:
        """The space of the distances."""
        return self.features

    def fit(self, view: ClientView, *, rng: torch.Generator) -> FilterState:
        """Return ``centroids`` ``[k, d]``, ``threshold`` ``[]``, and ``pool`` for a ratio."""
        return self.fit_many([view], [rng])[0]

    def fit_many(
        self, views: Sequence[ClientView], rngs: Sequence[torch.Generator]
    ) -> list[FilterState]:
        """Fit many clients; the centroids of all of them are found together."""
        splits: list[tuple[Tensor, Tensor] | None] = []
        wanted: list[Wanted] = []
        for view, rng in zip(views, rngs, strict=True):
            split = calibration_split(view, fraction=self.calibration_fraction, rng=rng)
            splits.append(split)
            if split is not None:
                wanted += self._wanted(view, split[0], rng=rng)
        found = iter(centroids_of_all(wanted))
        states: list[FilterState] = []
        for view, split in zip(views, splits, strict=True):
            if split is None:
                none = {"centroids": view.proxy[:0], "threshold": view.proxy.new_zeros(())}
                states.append(none)
                continue
            state = {"centroids": next(found)}
            if self.score is Score.RATIO:
                state["pool"] = next(found)
            state["threshold"] = torch.quantile(_scores(split[1], state), self.quantile)
            states.append(state)
        return states

    def _wanted(self, view: ClientView, fitted: Tensor, *, rng: torch.Generator) -> list[Wanted]:
        """Return whose centroids a client needs: its own rows', and for a ratio the proxy set's."""
        clusters = min(self.clusters_per_class * view.classes_held, len(fitted) // 20)
        own = Wanted(rows=fitted, n_clusters=max(2, clusters), rng=rng)
        if self.score is Score.DISTANCE:
            return [own]
        clusters = min(10 * self.clusters_per_class, len(view.proxy) // 20)
        return [own, Wanted(rows=view.proxy, n_clusters=max(2, clusters), rng=rng)]

    def weights(self, state: FilterState, view: ClientView) -> Tensor:
        """Return ones for kept rows, zeros for all others."""
        kept = _scores(view.proxy, state) <= state["threshold"]
        return (kept | view.own if self.own_rule else kept).float()


def _scores(rows: Tensor, state: FilterState) -> Tensor:
    """Return the score of each row, ``[n]``."""
    distance = nearest(rows, state["centroids"])
    if "pool" not in state:
        return distance
    return distance / nearest(rows, state["pool"]).clamp(min=1e-6)
