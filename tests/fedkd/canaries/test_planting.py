"""Canaries are planted beside the data: nothing else moves, and each is where it should be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fedkd.canaries.pattern import Pattern
from fedkd.canaries.secret_label import Look, SecretLabel
from fedkd.canaries.settings import Canaries
from fedkd.data.datasets.digits import Digits
from fedkd.data.federation import Layout, arrays_of, layout_rows, load, planted, true_labels
from fedkd.data.partitioners.base import partitioners
from fedkd.data.partitioners.dirichlet import Dirichlet
from fedkd.data.proxies.external import External
from fedkd.data.proxies.pooled import Pooled
from fedkd.errors import ConfigError

BARE = Layout(
    data=Digits(),
    partition=Dirichlet(),
    proxy=Pooled(),
    n_clients=6,
    seed=4,
    local_test_fraction=0.2,
)
CANARIES = Canaries(insertions=(1, 5), per_level=4, holders=2)
FAMILIES = [SecretLabel(), SecretLabel(look=Look.NATURAL), Pattern()]


def _with(**changes) -> Layout:
    return dataclasses.replace(BARE, canaries=dataclasses.replace(CANARIES, **changes))


N_OWN = len(load(BARE.data).train_labels)
N_ADDED = 2 * 4 * (1 + 5)


@pytest.mark.parametrize("in_proxy", [False, True])
@pytest.mark.parametrize("part", [n for n in partitioners.names() if n != "natural"])
@pytest.mark.parametrize("proxy", [Pooled(), External(size=200)])
def test_nothing_else_moves(part, proxy, in_proxy):
    same = {"partition": partitioners.get(part)(), "proxy": proxy}
    bare = dataclasses.replace(BARE, **same)
    laid = dataclasses.replace(_with(in_proxy=in_proxy), **same)
    (aside, clients), (aside_too, clients_too) = layout_rows(bare), layout_rows(laid)
    assert (aside == aside_too[: len(aside)]).all()
    asked = aside_too[len(aside) :]
    assert len(asked) == (len(planted(laid).canaries) if in_proxy and len(aside) else 0)
    assert sorted(planted(laid).number[asked - N_OWN]) == list(range(len(asked)))
    for one, other in zip(clients, clients_too, strict=True):
        n = len(one.train)
        assert (other.train[:n] == one.train).all()
        assert (other.train[n:] >= N_OWN).all()
        assert (other.local_test == one.local_test).all()
        own = other.contributed < n
        assert (other.contributed[own] == one.contributed).all()
    before, after = load(BARE.data), arrays_of(laid)
    assert (after.train_inputs[:N_OWN] == before.train_inputs).all()
    assert (after.train_labels[:N_OWN] == before.train_labels).all()
    assert (after.test_inputs == before.test_inputs).all()


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_a_row_is_its_canary_and_lies_with_its_holder(family):
    layout = _with(family=family)
    found, arrays = planted(layout), arrays_of(layout)
    assert len(arrays.train_labels) == N_OWN + N_ADDED
    assert len(found.number) == len(found.holder) == N_ADDED
    held: dict[tuple[int, int], int] = {}
    for client, rows in enumerate(layout_rows(layout)[1]):
        assert (rows.local_test < N_OWN).all(), "none is kept for a test"
        extra = rows.train[rows.train >= N_OWN]
        assert len(np.unique(extra)) == len(extra)
        for row in extra:
            assert found.holder[row - N_OWN] == client
            canary = found.canaries[found.number[row - N_OWN]]
            probe = family.probes(arrays, canary, np.array([canary.secret]))
            assert (arrays.train_inputs[row] == probe.inputs[0]).all()
            assert true_labels(layout, np.array([row])) == probe.labels[0]
            held[canary.number, client] = held.get((canary.number, client), 0) + 1
    assert held == {(c.number, h): c.insertions for c in found.canaries for h in c.holders}
    assert all(len(set(c.holders)) == 2 for c in found.canaries)
    assert [c.insertions for c in found.canaries] == [1] * 4 + [5] * 4


@pytest.mark.parametrize("in_proxy", [False, True])
def test_they_are_contributed_only_where_they_may_be(in_proxy):
    layout = _with(in_proxy=in_proxy)
    given = [rows.train[rows.contributed] for rows in layout_rows(layout)[1]]
    canary_rows = [int((rows >= N_OWN).sum()) for rows in given]
    if not in_proxy:
        assert sum(canary_rows) == 0
        return
    for rows, n_given in zip(layout_rows(layout)[1], canary_rows, strict=True):
        n_extra = int((rows.train >= N_OWN).sum())
        assert n_given == (max(1, round(0.2 * n_extra)) if n_extra >= 2 else round(0.2 * n_extra))
        assert len(np.unique(rows.contributed)) == len(rows.contributed)
    every = np.concatenate(given)
    assert len(np.unique(every)) == len(every), "proxy ids are unique"


def test_the_same_seed_plants_the_same_and_another_other_secrets():
    one, again = planted(_with()), planted(dataclasses.replace(_with()))
    assert one.canaries == again.canaries
    other = planted(dataclasses.replace(_with(), seed=5))
    assert [c.secret for c in other.canaries] != [c.secret for c in one.canaries]


def test_how_often_one_is_planted_changes_no_other_secret():
    few, more = planted(_with()), planted(_with(insertions=(2, 9)))
    assert [c.secret for c in few.canaries] == [c.secret for c in more.canaries]
    assert [c.holders for c in few.canaries] == [c.holders for c in more.canaries]


def test_more_holders_than_clients_are_refused():
    with pytest.raises(ConfigError, match="holders: 7 is more than clients=6"):
        planted(_with(holders=7))
