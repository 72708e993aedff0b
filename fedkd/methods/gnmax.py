"""GNMax: clients vote on every proxy row, and learn from the winners of a noisy count.

After Papernot et al.: Scalable Private Learning with PATE, 2018, https://arxiv.org/abs/1802.08908
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.gnmax import GNMax
from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.filters.base import Filter
from fedkd.filters.keep_all import KeepAll
from fedkd.methods.base import CoDistillation, methods


@methods.register("gnmax")
@dataclass(frozen=True)
class GNMaxFD(CoDistillation):
    """PATE between clients: each is a teacher with one vote, and each is a student.

    Differences from the paper: the students are the clients themselves, over several rounds, each
    of which is paid for; every proxy row is answered, not only those with a clear majority
    (Confident-GNMax); accounting does not look at the votes, so that epsilon may be published.
    """

    filter: Filter = field(default_factory=KeepAll)
    aggregator: Aggregator = field(default_factory=GNMax)
    distiller: Distiller = field(default_factory=lambda: KL(temperature=1.0))
