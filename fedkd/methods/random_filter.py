"""Random filter: as many rows as the KMeans filter keeps, chosen at random."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.mean import Mean
from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.filters.base import Filter
from fedkd.filters.random_rows import RandomRows
from fedkd.methods.base import CoDistillation, methods


@methods.register("random_filter")
@dataclass(frozen=True)
class RandomFilterFD(CoDistillation):
    """Control: the keep rate of EdgeFD without its choice.

    What EdgeFD gains over this is what its filter knows; the rest is thinner averaging.
    """

    filter: Filter = field(default_factory=RandomRows)
    aggregator: Aggregator = field(default_factory=Mean)
    distiller: Distiller = field(default_factory=KL)
