"""Selective-FD: clients keep rows by a KuLSIF density ratio, the server drops ambiguous ones.

After Shao, Wu, Zhang: Selective knowledge sharing for privacy-preserving federated distillation
without a good teacher, Nature Communications 15, 2024, https://arxiv.org/abs/2304.01731
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.selective_mean import SelectiveMean
from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.filters.base import Filter
from fedkd.filters.kulsif import KuLSIF
from fedkd.methods.base import CoDistillation, methods


@methods.register("selective_fd")
@dataclass(frozen=True)
class SelectiveFD(CoDistillation):
    """Selective-FD: KuLSIF density-ratio filter on each client, optional selector on the server.

    Differences from the paper: the KuLSIF system is really solved (the released code multiplies by
    the matrix instead of its inverse); ratios are taken in PCA-50 space, not on raw pixels; the
    kernel width defaults to a median distance; distillation is KL at temperature 3 interleaved
    with private batches, not cross-entropy at temperature 1 after them; the server selector is
    off by default, as in the released demo (``method.aggregator.ambiguity``).
    """

    filter: Filter = field(default_factory=KuLSIF)
    aggregator: Aggregator = field(default_factory=SelectiveMean)
    distiller: Distiller = field(default_factory=KL)
