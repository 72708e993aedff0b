"""How a scenario's data is laid out: which rows each client trains on, tests on and gives away.

Clients and server rebuild the layout from the scenario, so no index ever travels; each side
takes only what it may see. Canaries are training rows after the data set's own. The arrays and
lists returned here are shared by all callers: do not write into them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt

from fedkd.canaries.base import Canary
from fedkd.canaries.settings import Canaries
from fedkd.data.datasets.base import Arrays, DataSet
from fedkd.data.partitioners.base import Partitioner, Rows
from fedkd.data.proxies.base import Proxy
from fedkd.errors import ConfigError
from fedkd.rng import numpy_stream
from fedkd.types import ProxySource

_MIN_ROWS_FOR_TEST = 10


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All that decides who holds which row.

    Attributes:
        data: where the examples come from.
        partition: how they are shared out.
        proxy: where the proxy set comes from.
        n_clients: number of clients.
        seed: of the partition; training has its own.
        local_test_fraction: share of a client's rows that it keeps for its own test.
        canaries: what is planted beside the data, or None.
    """

    data: DataSet
    partition: Partitioner
    proxy: Proxy
    n_clients: Annotated[int, Ge(1)]
    seed: Annotated[int, Ge(0)]
    local_test_fraction: Annotated[float, Ge(0), Lt(1)]
    canaries: Canaries | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ClientRows:
    """The rows of one client.

    Attributes:
        train: int64 ``[n]``, index in the data set's training rows, in random order.
        local_test: int64 ``[n_test]``, the same for rows kept for the client's own test.
        contributed: int64 ``[m]``, ascending positions *in* ``train`` given to the proxy set; the
            id of such a proxy row is ``train[contributed]``.
    """

    train: Rows
    local_test: Rows
    contributed: Rows


@dataclass(frozen=True, eq=False, kw_only=True)
class Planted:
    """A data set with the canaries' training rows after its own.

    Attributes:
        arrays: both together.
        canaries: in order of their numbers.
        number: int64 ``[rows]``, the canary of each row that was added.
        holder: int64 ``[rows]``, the client that holds it.
    """

    arrays: Arrays
    canaries: tuple[Canary, ...]
    number: Rows
    holder: Rows


@lru_cache(maxsize=2)
def load(data: DataSet) -> Arrays:
    """Return the data set's arrays, read once per process."""
    return data.load()


@lru_cache(maxsize=2)
def planted(layout: Layout) -> Planted:
    """Return the data set with a layout's canaries; ConfigError when they do not fit it."""
    arrays, nothing = load(layout.data), np.zeros(0, dtype=np.int64)
    if layout.canaries is None:
        return Planted(arrays=arrays, canaries=(), number=nothing, holder=nothing)
    family = layout.canaries.family
    canaries = layout.canaries.draw(arrays, n_clients=layout.n_clients, seed=layout.seed)
    held = [(canary, holder) for canary in canaries for holder in canary.holders]
    parts = [
        family.rows(
            arrays,
            canary,
            rng=numpy_stream(layout.seed, "canary rows", round=canary.number, client=holder),
        )
        for canary, holder in held
    ]
    sizes = [canary.insertions for canary, _ in held]
    return Planted(
        arrays=replace(
            arrays,
            train_inputs=np.concatenate([arrays.train_inputs, *(part[0] for part in parts)]),
            train_labels=np.concatenate([arrays.train_labels, *(part[1] for part in parts)]),
            strata=None,
        ),
        canaries=canaries,
        number=np.repeat([canary.number for canary, _ in held], sizes),
        holder=np.repeat([holder for _, holder in held], sizes),
    )


def arrays_of(layout: Layout) -> Arrays:
    """Return the rows that a layout's indices are about: the data set's, then the canaries'."""
    return planted(layout).arrays


@lru_cache(maxsize=2)
def layout_rows(layout: Layout) -> tuple[Rows, list[ClientRows]]:
    """Return the external proxy rows (none for pooled sources) and the rows of every client.

    Proxy ids are indices in the training set and unique: when clients share rows (``resample``),
    a row is contributed by the first client that gives it.

    Raises:
        ConfigError: the partitioner or the proxy source finds the numbers impossible.
    """
    groups = load(layout.data).groups
    aside = layout.proxy.set_aside(groups, rng=numpy_stream(layout.seed, "proxy"))
    left = np.setdiff1d(np.arange(len(groups)), aside)
    parts = layout.partition.split(
        groups[left], layout.n_clients, rng=numpy_stream(layout.seed, "partition")
    )
    given = np.zeros(len(groups), dtype=bool)
    clients = [
        _rows_of(layout, left[part], client=client, given=given)
        for client, part in enumerate(parts)
    ]
    asked = np.concatenate([aside, _questions(layout)])
    return asked, [_with_canaries(layout, rows, client=n) for n, rows in enumerate(clients)]


def client_rows(layout: Layout, client: int) -> ClientRows:
    """Return what one client may see; ConfigError when there is no such client."""
    if not 0 <= client < layout.n_clients:
        raise ConfigError(f"client {client} is not in 0..{layout.n_clients - 1}")
    return layout_rows(layout)[1][client]


def external_rows(layout: Layout) -> Rows:
    """Return the proxy rows that no client owns, ascending; empty for pooled sources."""
    return layout_rows(layout)[0]


def true_labels(layout: Layout, ids: Rows) -> Rows:
    """Return the labels of rows given by their index in the training set: an oracle.

    For measurement, and for components registered with ``oracle=True``, only: in a real
    federation nobody knows the labels of proxy rows.
    """
    return arrays_of(layout).train_labels[ids]


def _rows_of(layout: Layout, rows: Rows, *, client: int, given: np.ndarray) -> ClientRows:
    """Divide one client's rows; marks in ``given`` (bool ``[n]``) what it contributes."""
    test, train = _local_split(layout, rows, client=client)
    rng = numpy_stream(layout.seed, "contribution", client=client)
    positions = layout.proxy.contribution(len(train), rng=rng)
    _, first = np.unique(train[positions], return_index=True)
    positions = positions[np.sort(first)]
    positions = positions[~given[train[positions]]]
    given[train[positions]] = True
    return ClientRows(train=train, local_test=test, contributed=positions)


def _questions(layout: Layout) -> Rows:
    """Return one row of each canary that the server of an external proxy set asks about."""
    if layout.canaries is None or not layout.canaries.in_proxy:
        return np.zeros(0, dtype=np.int64)
    if layout.proxy.source is not ProxySource.EXTERNAL:
        return np.zeros(0, dtype=np.int64)
    _, first = np.unique(planted(layout).number, return_index=True)
    return first + len(load(layout.data).groups)


def _with_canaries(layout: Layout, rows: ClientRows, *, client: int) -> ClientRows:
    """Return a client's rows with its canaries at the end; none of them is kept for a test."""
    if layout.canaries is None:
        return rows
    extra = np.flatnonzero(planted(layout).holder == client) + len(load(layout.data).groups)
    given = rows.contributed
    if layout.canaries.in_proxy:
        rng = numpy_stream(layout.seed, "canary contribution", client=client)
        chosen = layout.proxy.contribution(len(extra), rng=rng)
        given = np.concatenate([given, len(rows.train) + chosen])
    return replace(rows, train=np.concatenate([rows.train, extra]), contributed=given)


def _local_split(layout: Layout, rows: Rows, *, client: int) -> tuple[Rows, Rows]:
    """Return (local test, train); copies of a test row are dropped from train.

    No local test when there are fewer than 10 rows, or when it would leave nothing to train on.
    """
    n_test = math.floor(layout.local_test_fraction * len(rows))
    if len(rows) < _MIN_ROWS_FOR_TEST or n_test == 0:
        return rows[:0], rows
    order = numpy_stream(layout.seed, "local test", client=client).permutation(len(rows))
    test, train = rows[order[:n_test]], rows[order[n_test:]]
    train = train[~np.isin(train, test)]
    return (test, train) if len(train) else (rows[:0], rows)
