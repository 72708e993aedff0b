"""What every canary family promises: a uniform secret, hidden in rows that disturb no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from fedkd.canaries.base import canary_families
from fedkd.canaries.settings import Canaries
from fedkd.data.datasets.digits import Digits
from fedkd.data.datasets.gutenberg_mini import GutenbergMini
from fedkd.data.federation import Layout, arrays_of, client_rows, layout_rows, load, planted
from fedkd.data.partitioners.iid import Iid
from fedkd.data.proxies.pooled import Pooled
from fedkd.errors import ConfigError

DATA = (Digits(limit=400), GutenbergMini(limit=400))
FAMILIES = canary_families.names()
every_family = pytest.mark.parametrize("name", FAMILIES)
N_CLIENTS = 4


def _family(name):
    return canary_families.get(name)()


def _data(name):
    """Return the first data set that the family fits."""
    for data in DATA:
        try:
            _family(name).n_secrets(load(data))
        except ConfigError:
            continue
        return data
    raise AssertionError(f"{name} fits no data set of this test")


def _layout(name, **settings) -> Layout:
    canaries = Canaries(
        **{"family": _family(name), "insertions": (2, 6), "per_level": 3} | settings
    )
    return Layout(
        data=_data(name),
        partition=Iid(),
        proxy=Pooled(fraction=0.5),
        n_clients=N_CLIENTS,
        seed=3,
        local_test_fraction=0.2,
        canaries=canaries,
    )


@every_family
def test_its_rows_look_like_the_data(name):
    layout = _layout(name)
    arrays, all_rows = load(layout.data), planted(layout)
    canaries = all_rows.canaries
    assert [canary.number for canary in canaries] == list(range(6))
    assert [canary.insertions for canary in canaries] == [2] * 3 + [6] * 3
    for canary in canaries:
        inputs, labels = _family(name).rows(arrays, canary, rng=np.random.default_rng(0))
        assert inputs.shape == (canary.insertions, *arrays.input_shape)
        assert inputs.dtype == arrays.train_inputs.dtype
        assert labels.shape == (canary.insertions, *arrays.train_labels.shape[1:])
        assert labels.dtype == np.int64
        assert 0 <= labels.min() <= labels.max() < arrays.n_classes
        again = _family(name).rows(arrays, canary, rng=np.random.default_rng(0))
        assert np.array_equal(inputs, again[0])
        assert np.array_equal(labels, again[1])


@every_family
def test_a_probe_of_the_secret_asks_what_a_training_row_taught(name):
    layout = _layout(name)
    arrays, family = load(layout.data), _family(name)
    for canary in planted(layout).canaries:
        others = [(canary.secret + step) % family.n_secrets(arrays) for step in (1, 3)]
        secrets = np.array([canary.secret, *others])
        probes = family.probes(arrays, canary, secrets)
        assert probes.inputs.shape == (3, *arrays.input_shape)
        assert probes.inputs.dtype == arrays.train_inputs.dtype
        assert probes.labels.dtype == np.int64
        assert probes.labels.shape == probes.scored.shape == (3, *arrays.train_labels.shape[1:])
        counts = probes.scored.reshape(3, -1).sum(axis=1)
        assert counts.min() == counts.max() > 0, "every candidate is scored as often"
        taught = [probes.labels[n][probes.scored[n]] for n in range(3)]
        _, labels = family.rows(arrays, canary, rng=np.random.default_rng(1))
        for row in labels:
            assert taught[0].tobytes() in np.atleast_1d(row).tobytes()
        different = [
            not np.array_equal(taught[0], taught[n])
            or not np.array_equal(probes.inputs[0], probes.inputs[n])
            for n in (1, 2)
        ]
        assert all(different), "candidates are told apart by what is scored, or by the input"


@every_family
def test_a_probe_depends_on_no_planted_row(name):
    layout = _layout(name)
    family, before, after = _family(name), load(layout.data), arrays_of(layout)
    assert len(after.train_inputs) > len(before.train_inputs)
    for canary in planted(layout).canaries:
        secrets = np.arange(3)
        first = family.probes(before, canary, secrets)
        second = family.probes(after, canary, secrets)
        assert np.array_equal(first.inputs, second.inputs)
        assert np.array_equal(first.labels, second.labels)
        assert np.array_equal(first.scored, second.scored)
        assert family.words(before, canary) == family.words(after, canary)


@every_family
def test_secrets_are_uniform(name):
    arrays, family = load(_data(name)), _family(name)
    settings = Canaries(family=family, insertions=(1,), per_level=4000)
    k = family.n_secrets(arrays)
    secrets = np.array([c.secret for c in settings.draw(arrays, n_clients=2, seed=11)])
    assert 0 <= secrets.min() <= secrets.max() < k
    n_bins = min(k, 50)
    edges = np.linspace(0, k, n_bins + 1).round().astype(int)
    counts = np.histogram(secrets, bins=edges)[0]
    expected = len(secrets) * np.diff(edges) / k
    assert chisquare(counts, expected).pvalue > 0.001  # the size of this test


@every_family
def test_different_canaries_hide_in_different_places(name):
    layout = _layout(name)
    arrays, family = load(layout.data), _family(name)
    canaries = [replace(canary, secret=0) for canary in planted(layout).canaries]
    shown = {family.probes(arrays, canary, np.array([0])).inputs.tobytes() for canary in canaries}
    assert len(shown) == len(canaries)
    assert len({family.words(arrays, canary) for canary in canaries}) == len(canaries)


@every_family
def test_planting_leaves_every_other_row_where_it_was(name):
    layout = _layout(name, in_proxy=True)
    plain = replace(layout, canaries=None)
    n = len(load(layout.data).groups)
    assert np.array_equal(arrays_of(layout).train_inputs[:n], arrays_of(plain).train_inputs)
    assert np.array_equal(arrays_of(layout).train_labels[:n], arrays_of(plain).train_labels)
    assert np.array_equal(arrays_of(layout).test_inputs, arrays_of(plain).test_inputs)
    for client in range(N_CLIENTS):
        with_, without = client_rows(layout, client), client_rows(plain, client)
        own = len(without.train)
        assert np.array_equal(with_.train[:own], without.train)
        assert bool((with_.train[own:] >= n).all())
        assert np.array_equal(with_.local_test, without.local_test)
        mine = with_.contributed[with_.contributed < own]
        assert np.array_equal(mine, without.contributed)


@every_family
@pytest.mark.parametrize("holders", [1, 3])
def test_holders_alone_hold_it(name, holders):
    layout = _layout(name, holders=holders)
    found, n = planted(layout), len(load(layout.data).groups)
    for canary in found.canaries:
        assert len(canary.holders) == holders
        rows = n + np.flatnonzero(found.number == canary.number)
        assert len(rows) == holders * canary.insertions
        for client, held in enumerate(layout_rows(layout)[1]):
            here = np.isin(held.train, rows).sum()
            assert here == (canary.insertions if client in canary.holders else 0)


@every_family
def test_it_reaches_the_proxy_set_only_where_it_may(name):
    n = len(load(_data(name)).groups)
    given: dict[bool, int] = {}
    for in_proxy in (False, True):
        rows = layout_rows(_layout(name, in_proxy=in_proxy))[1]
        given[in_proxy] = sum(int((r.train[r.contributed] >= n).sum()) for r in rows)
    assert given[False] == 0
    assert 0.3 * 24 < given[True] < 0.7 * 24  # half of 3 * 2 + 3 * 6 rows, rounded by client
