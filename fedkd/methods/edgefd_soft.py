"""EdgeFD with density weights: every client speaks about every row, as loudly as it knows it.

Close to density-weighted aggregation, Kovalchuk et al. 2025, https://arxiv.org/abs/2509.15147
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.mean import Mean
from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.filters.base import Filter
from fedkd.filters.density import DensityFilter
from fedkd.methods.base import CoDistillation, methods


@methods.register("edgefd_soft")
@dataclass(frozen=True)
class EdgeFDSoft(CoDistillation):
    """EdgeFD with KMeans density weights in place of a threshold; better with an external proxy.

    Differences from the literature: ours; weights are exp(-beta d / m) with d the distance to the
    nearest private centroid and m the median of held-out private distances. The weight of a row
    tells how near it is to private data, on every row: more than a mask tells.
    """

    filter: Filter = field(default_factory=DensityFilter)
    aggregator: Aggregator = field(default_factory=Mean)
    distiller: Distiller = field(default_factory=KL)
