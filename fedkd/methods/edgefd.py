"""EdgeFD: each client speaks only about proxy rows near its own data, found by KMeans.

After Mujtaba, Radchenko, Prodan, Masana: Federated Distillation on Edge Devices: Efficient
Client-Side Filtering for Non-IID Data, 2025, https://arxiv.org/abs/2508.14769
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.aggregators.base import Aggregator
from fedkd.aggregators.mean import Mean
from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.filters.base import Filter
from fedkd.filters.kmeans import KMeansFilter
from fedkd.methods.base import CoDistillation, methods


@methods.register("edgefd")
@dataclass(frozen=True)
class EdgeFD(CoDistillation):
    """EdgeFD: KMeans filter on each client, plain mean over keepers, interleaved distillation.

    Differences from the paper (only its abstract and summaries could be read, so nothing here
    reproduces its tables): probabilities are averaged, not logits; the threshold is a quantile of
    held-out private distances; features are PCA-50 of the proxy set; rows that nobody kept are
    dropped; private and distillation batches are interleaved instead of following each other; all
    proxy rows are answered every round.
    """

    filter: Filter = field(default_factory=KMeansFilter)
    aggregator: Aggregator = field(default_factory=Mean)
    distiller: Distiller = field(default_factory=KL)
