"""Choosing some of a data set's rows so that every class keeps its share."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedkd.data.datasets.base import Arrays
from fedkd.errors import ConfigError

Rows = NDArray[np.int64]

_LIMIT_SEED = 20_240_117
_SPLIT_SEED = 20_240_118


def spread(labels: Rows, *, rng: np.random.Generator, proportional: bool = False) -> Rows:
    """Return all rows in an order whose every prefix is spread over the classes.

    Args:
        labels: int64 ``[n]``.
        rng: decides which rows of a class come first.
        proportional: every prefix holds the classes in the proportions of ``labels``; otherwise
            in equal numbers, as long as a class has rows left.

    Returns:
        int64 ``[n]``, a permutation.
    """
    shuffled = rng.permutation(len(labels))
    _, codes, sizes = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    by_class = np.argsort(codes, kind="stable")
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(labels))
    rank[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    key = (rank + 0.5) / sizes[codes] if proportional else rank
    return shuffled[np.argsort(key, kind="stable")].astype(np.int64)


def limited(arrays: Arrays, limit: int | None) -> Arrays:
    """Return ``arrays`` with a class-balanced subset of ``limit`` training rows; None keeps all.

    The subset is the same on every machine and in every run (it has its own fixed seed), a
    smaller one is part of a larger one, and the rows keep their order. The test set stays whole.

    Raises:
        ConfigError: ``limit`` is below 1 or above the number of training rows.
    """
    if limit is None:
        return arrays
    n = len(arrays.train_labels)
    if not 1 <= limit <= n:
        raise ConfigError(f"limit={limit} is not in 1..{n}, the training rows there are")
    order = spread(arrays.groups, rng=np.random.default_rng(_LIMIT_SEED))
    rows = np.sort(order[:limit])
    return dataclasses.replace(
        arrays,
        train_inputs=arrays.train_inputs[rows],
        train_labels=arrays.train_labels[rows],
        strata=None if arrays.strata is None else arrays.strata[rows],
    )


def stratified_split(labels: Rows, n_test: int) -> tuple[Rows, Rows]:
    """Return (train rows, test rows), both ascending, in the class proportions of ``labels``.

    The split has its own fixed seed: it is part of the data set, not of an experiment.
    """
    order = spread(labels, rng=np.random.default_rng(_SPLIT_SEED), proportional=True)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def class_codes(train: NDArray[np.generic], test: NDArray[np.generic]) -> tuple[Rows, Rows, int]:
    """Map any labels to ``0 .. n_classes - 1`` in sorted order; return both sets and the count."""
    names, codes = np.unique(np.concatenate([train, test]), return_inverse=True)
    codes = codes.astype(np.int64)
    return codes[: len(train)], codes[len(train) :], len(names)
