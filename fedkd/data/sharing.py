"""Index arithmetic that several partitioners need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkd.data.partitioners.base import Rows
from fedkd.errors import ConfigError


def require_rows(labels: Rows, needed: int, *, reason: str) -> None:
    """ConfigError unless there are ``needed`` rows; ``reason`` says why so many are needed."""
    if len(labels) < needed:
        raise ConfigError(
            f"{reason} need {needed} rows, there are {len(labels)}; take fewer clients or more data"
        )


def rows_by_class(labels: Rows, *, rng: np.random.Generator) -> list[Rows]:
    """Return the positions of each class that occurs, classes ascending, rows in random order."""
    shuffled = rng.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.unique(labels, return_counts=True)[1]
    return np.split(order, np.cumsum(sizes)[:-1])


def class_mixes(
    alpha: float, n_clients: int, *, n_classes: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return ``[n_clients, n_classes]``, each row drawn from a symmetric Dirichlet(alpha)."""
    mixes = rng.dirichlet(np.full(n_classes, alpha), size=n_clients)
    # An extremely small alpha underflows to 0 / 0; its limit is one class, chosen at random.
    lone = np.eye(n_classes)[rng.integers(n_classes, size=n_clients)]
    return np.where(np.isfinite(mixes).all(axis=1, keepdims=True), mixes, lone)


def deal(rows: Rows, owner: Rows, *, n_clients: int, rng: np.random.Generator) -> list[Rows]:
    """Return for each client the ``rows`` whose ``owner`` it is, in random order."""
    order = rng.permutation(len(rows))
    order = order[np.argsort(owner[order], kind="stable")]
    sizes = np.bincount(owner, minlength=n_clients)
    return np.split(rows[order], np.cumsum(sizes)[:-1])
