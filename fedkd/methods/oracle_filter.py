"""Oracle filter: a client answers exactly the rows whose true class it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.mean import Mean
from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.filters.base import Filter
from fedkd.filters.true_classes import TrueClasses
from fedkd.methods.base import CoDistillation, methods


@methods.register("oracle_filter")
@dataclass(frozen=True)
class OracleFilterFD(CoDistillation):
    """Oracle control: the filter every density filter tries to be; it reads proxy labels.

    No deployment can run it.
    """

    oracle: ClassVar[bool] = True
    filter: Filter = field(default_factory=TrueClasses)
    aggregator: Aggregator = field(default_factory=Mean)
    distiller: Distiller = field(default_factory=KL)
