"""Clients draw rows with replacement, so there can be more clients than the data would feed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le

from fedkd.data.partitioners.base import Partitioner, Rows, partitioners
from fedkd.data.sharing import class_mixes, require_rows, rows_by_class


@partitioners.register("resample")
@dataclass(frozen=True)
class Resample(Partitioner):
    """Every client draws ``rows`` rows with its own Dirichlet(``alpha``) class mix.

    The only partitioner whose clients may share rows, and may hold a row twice. Good for
    measuring speed with many clients; not for privacy audits, whose notion of a member needs
    disjoint clients.
    """

    shares_rows: ClassVar[bool] = True
    rows: Annotated[int, Ge(1)] = 50
    alpha: Annotated[float, Gt(0), Le(1e6)] = 0.3

    def split(self, labels: Rows, n_clients: int, *, rng: np.random.Generator) -> list[Rows]:
        """Draw; ConfigError only when there is no row at all."""
        require_rows(labels, 1, reason="draws with replacement")
        by_class = rows_by_class(labels, rng=rng)
        mixes = class_mixes(self.alpha, n_clients, n_classes=len(by_class), rng=rng)
        counts = rng.multinomial(self.rows, mixes)
        label = np.repeat(np.tile(np.arange(len(by_class)), n_clients), counts.ravel())
        sizes = np.array([len(rows) for rows in by_class])
        starts = np.cumsum(sizes) - sizes
        picks = starts[label] + rng.integers(sizes[label])
        drawn = np.concatenate(by_class)[picks].reshape(n_clients, self.rows)
        return list(rng.permuted(drawn, axis=1))
