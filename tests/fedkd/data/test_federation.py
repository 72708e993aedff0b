"""The layout gives every row one place, and the same place whoever rebuilds it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from fedkd.data import federation
from fedkd.data.datasets.base import Arrays, DataSet, Presence
from fedkd.data.datasets.digits import Digits
from fedkd.data.federation import Layout, client_rows, external_rows, layout_rows, true_labels
from fedkd.data.partitioners.base import partitioners
from fedkd.data.partitioners.dirichlet import Dirichlet
from fedkd.data.partitioners.iid import Iid
from fedkd.data.partitioners.resample import Resample
from fedkd.data.proxies.base import proxies
from fedkd.data.proxies.external import External
from fedkd.data.proxies.pooled import Pooled
from fedkd.errors import ConfigError

POOLED = Layout(
    data=Digits(),
    partition=Dirichlet(),
    proxy=Pooled(),
    n_clients=8,
    seed=0,
    local_test_fraction=0.2,
)


@dataclasses.dataclass(frozen=True)
class Counting(DataSet):
    """Counts how often it is read."""

    n: int = 40
    reads: ClassVar[list[int]] = []

    def load(self) -> Arrays:
        self.reads.append(self.n)
        labels = np.arange(self.n) % 2
        inputs = np.zeros((self.n, 3), dtype=np.float32)
        return Arrays(
            train_inputs=inputs,
            train_labels=labels,
            test_inputs=inputs,
            test_labels=labels,
            n_classes=2,
        )

    def check(self) -> Presence:
        return Presence(present=True, detail="")


def placed(layout: Layout) -> list[np.ndarray]:
    aside, clients = layout_rows(layout)
    return [aside, *(rows for c in clients for rows in (c.train, c.local_test))]


@pytest.mark.parametrize("part", [n for n in partitioners.names() if n != "resample"])
@pytest.mark.parametrize("proxy", [Pooled(), External(size=200)])
def test_no_row_has_two_places(part, proxy):
    layout = dataclasses.replace(POOLED, partition=partitioners.get(part)(), proxy=proxy)
    every = np.concatenate(placed(layout))
    assert len(np.unique(every)) == len(every)
    assert every.max() < 1500


def test_local_test_has_the_floor_of_its_share():
    for client in layout_rows(POOLED)[1]:
        n = len(client.train) + len(client.local_test)
        assert len(client.local_test) == int(0.2 * n)
        assert len(client.contributed) == max(1, round(0.2 * len(client.train)))
        assert client.contributed.max() < len(client.train)


def test_small_clients_keep_no_local_test():
    tiny = dataclasses.replace(
        POOLED, data=Counting(), partition=Iid(), n_clients=5, local_test_fraction=0.5
    )
    assert all(len(c.local_test) == 0 and len(c.train) == 8 for c in layout_rows(tiny)[1])
    none = dataclasses.replace(POOLED, local_test_fraction=0.0)
    assert all(len(c.local_test) == 0 for c in layout_rows(none)[1])


def test_external_rows_belong_to_nobody():
    layout = dataclasses.replace(POOLED, proxy=External(size=200))
    rows = external_rows(layout)
    assert np.bincount(true_labels(layout, rows)).tolist() == [20] * 10
    assert all(len(c.contributed) == 0 for c in layout_rows(layout)[1])
    assert external_rows(POOLED).shape == (0,)


def test_both_sides_rebuild_the_same_layout():
    first = placed(POOLED)
    layout_rows.cache_clear()
    federation.load.cache_clear()
    assert all(np.array_equal(a, b) for a, b in zip(first, placed(POOLED), strict=True))
    other = placed(dataclasses.replace(POOLED, seed=1))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_proxy_source_does_not_move_the_partition():
    half = dataclasses.replace(POOLED, proxy=Pooled(fraction=0.5))
    assert all(np.array_equal(a, b) for a, b in zip(placed(POOLED), placed(half), strict=True))


def test_ids_stay_unique_when_clients_share_rows():
    layout = dataclasses.replace(
        POOLED, partition=Resample(rows=50), n_clients=200, proxy=Pooled(fraction=0.5)
    )
    clients = layout_rows(layout)[1]
    ids = np.concatenate([c.train[c.contributed] for c in clients])
    assert len(np.unique(ids)) == len(ids) > 1000
    assert all(len(c.local_test) == 10 for c in clients)
    assert not any(np.isin(c.train, c.local_test).any() for c in clients)
    lone = dataclasses.replace(layout, data=Counting(n=1), n_clients=2)
    assert all(len(c.train) == 50 and len(c.local_test) == 0 for c in layout_rows(lone)[1])


def test_data_is_read_once():
    Counting.reads.clear()
    federation.load.cache_clear()
    layout = dataclasses.replace(POOLED, data=Counting(n=60), partition=Iid(), n_clients=3)
    layout_rows(layout)
    assert client_rows(layout, 2) is layout_rows(layout)[1][2]
    federation.load(Counting(n=60))
    assert Counting.reads == [60]


@pytest.mark.parametrize("client", [-1, 8])
def test_no_such_client(client):
    with pytest.raises(ConfigError, match=rf"client {client} is not in 0\.\.7"):
        client_rows(POOLED, client)


def test_every_pair_of_parts_lays_out():
    for part in partitioners.names():
        for proxy in proxies.names():
            layout = dataclasses.replace(
                POOLED, partition=partitioners.get(part)(), proxy=proxies.get(proxy)()
            )
            assert len(layout_rows(layout)[1]) == 8
