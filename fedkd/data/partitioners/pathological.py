"""Every client holds only a few classes: the hardest label skew (McMahan et al. 2017).

Paper: https://arxiv.org/abs/1602.05629. One class a client is "strong" and two are "weak"
non-IID in the papers on filtered distillation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from fedkd.data.partitioners.base import Partitioner, Rows, partitioners
from fedkd.data.sharing import deal, require_rows, rows_by_class
from fedkd.errors import ConfigError


@partitioners.register("pathological")
@dataclass(frozen=True)
class Pathological(Partitioner):
    """Client i holds classes i, i+1, ... i+k-1, modulo the number of classes that occur.

    The holders of a class share its rows evenly. With fewer clients than classes some classes
    may have no holder; their rows are left out.
    """

    classes_per_client: Annotated[int, Ge(1)] = 1

    def split(self, labels: Rows, n_clients: int, *, rng: np.random.Generator) -> list[Rows]:
        """Share out each class; ConfigError when a class has more holders than rows."""
        require_rows(labels, n_clients, reason=f"{n_clients} clients with a row each")
        by_class = rows_by_class(labels, rng=rng)
        n_classes, k = len(by_class), self.classes_per_client
        if k > n_classes:
            raise ConfigError(f"classes_per_client={k}, but only {n_classes} classes occur")
        first = np.arange(n_clients) % n_classes
        rows: list[Rows] = []
        owner: list[Rows] = []
        for label, members in enumerate(by_class):
            holders = np.flatnonzero((label - first) % n_classes < k)
            if len(holders) > len(members):
                raise ConfigError(
                    f"{len(holders)} of {n_clients} clients hold class {labels[members[0]]}, which "
                    f"has {len(members)} rows; take fewer clients or more data"
                )
            if len(holders) > 0:
                rows.append(members)
                owner.append(np.sort(np.resize(holders, len(members))))
        return deal(np.concatenate(rows), np.concatenate(owner), n_clients=n_clients, rng=rng)
