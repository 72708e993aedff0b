"""Equally many rows a client, each client with its own random class mix; made for many clients.

The mixes are those of Hsu et al. 2019, https://arxiv.org/abs/1909.06335.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray

from fedkd.data.partitioners.base import Partitioner, Rows, partitioners
from fedkd.data.sharing import class_mixes, deal, require_rows, rows_by_class

Counts = NDArray[np.int64]

_NEGLIGIBLE = 1e-12


@partitioners.register("dirichlet_equal")
@dataclass(frozen=True)
class DirichletEqual(Partitioner):
    """Label skew without size skew, and without replacement.

    Every client gets ``n // n_clients`` rows; the remainder is left out. When a class runs out,
    the clients that still want it are cut at random and take more of their other classes, so the
    skew of late choices is a little weaker than ``alpha`` says.
    """

    alpha: Annotated[float, Gt(0), Le(1e6)] = 0.3

    def split(self, labels: Rows, n_clients: int, *, rng: np.random.Generator) -> list[Rows]:
        """Draw counts per client and class, then rows; ConfigError with too few rows."""
        require_rows(labels, n_clients, reason=f"{n_clients} clients with a row each")
        by_class = rows_by_class(labels, rng=rng)
        mixes = class_mixes(self.alpha, n_clients, n_classes=len(by_class), rng=rng)
        sizes = np.array([len(rows) for rows in by_class])
        counts = _granted(mixes, sizes, quota=len(labels) // n_clients, rng=rng)
        clients = np.arange(n_clients)
        rows = [part[:taken] for part, taken in zip(by_class, counts.sum(axis=0), strict=True)]
        owner = [np.repeat(clients, of_class) for of_class in counts.T]
        return deal(np.concatenate(rows), np.concatenate(owner), n_clients=n_clients, rng=rng)


def _granted(
    mixes: NDArray[np.float64], sizes: Counts, *, quota: int, rng: np.random.Generator
) -> Counts:
    """Return int64 ``[clients, classes]``: rows sum to ``quota``, columns to ``sizes`` at most.

    In each pass all clients ask for what they lack. A pass satisfies everybody or exhausts a
    class, so there are at most as many passes as classes.
    """
    granted = np.zeros(mixes.shape, dtype=np.int64)
    left = sizes.copy()
    lack = np.full(len(mixes), quota, dtype=np.int64)
    while lack.any():
        asked = rng.multinomial(lack, _renormalised(mixes, left))
        for label in np.flatnonzero(asked.sum(axis=0) > left):
            wanted = asked[:, label]
            asked[:, label] = rng.multivariate_hypergeometric(
                wanted, int(left[label]), method="marginals"
            )
        granted += asked
        left = left - asked.sum(axis=0)
        lack = lack - asked.sum(axis=1)
    return granted


def _renormalised(mixes: NDArray[np.float64], left: Counts) -> NDArray[np.float64]:
    """Return the mixes over classes with rows left; what is left, where a mix has none of it."""
    open_mixes = np.where(left > 0, mixes, 0.0)
    totals = open_mixes.sum(axis=1, keepdims=True)
    usable = totals > _NEGLIGIBLE
    return np.where(usable, open_mixes / np.where(usable, totals, 1.0), left / left.sum())
