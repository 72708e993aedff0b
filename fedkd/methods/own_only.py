"""Own contributions only: EdgeFD's first stage without any KMeans."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.mean import Mean
from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.filters.base import Filter
from fedkd.filters.own_only import OwnOnly
from fedkd.methods.base import CoDistillation, methods


@methods.register("own_only")
@dataclass(frozen=True)
class OwnOnlyFD(CoDistillation):
    """Control: each client answers exactly the proxy rows it contributed itself.

    With a pooled proxy set this shows what KMeans adds to the own-contribution rule. With an
    external proxy set nobody owns a row, no consensus forms, and it is local training.
    """

    filter: Filter = field(default_factory=OwnOnly)
    aggregator: Aggregator = field(default_factory=Mean)
    distiller: Distiller = field(default_factory=KL)
