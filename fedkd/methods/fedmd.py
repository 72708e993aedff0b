"""FedMD: the plain mean of all clients' scores, no filter.

After Li and Wang: FedMD: Heterogenous Federated Learning via Model Distillation, 2019,
https://arxiv.org/abs/1910.03581
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.mean import Mean
from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.filters.base import Filter
from fedkd.filters.keep_all import KeepAll
from fedkd.methods.base import CoDistillation, methods


@methods.register("fedmd")
@dataclass(frozen=True)
class FedMD(CoDistillation):
    """FedMD: every client answers every proxy row, the server takes the mean.

    Differences from the paper: probabilities at temperature 3 and KL instead of raw logits and
    mean absolute error (``method.distiller=mae`` is the paper's loss); no pre-training on labelled
    public data; the whole proxy set every round; digest and revisit are interleaved.
    """

    filter: Filter = field(default_factory=KeepAll)
    aggregator: Aggregator = field(default_factory=Mean)
    distiller: Distiller = field(default_factory=KL)
