"""What every proxy source promises: rows come from nobody or from clients, and it says which."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd.data.proxies.base import proxies
from fedkd.types import ProxySource

every_proxy = pytest.mark.parametrize("name", proxies.names())
LABELS = np.random.default_rng(0).permutation(np.arange(2000) % 10)


def _rows(name, *, seed: int = 0):
    proxy = proxies.get(name)()
    aside = proxy.set_aside(LABELS, rng=np.random.default_rng(seed))
    given = proxy.contribution(200, rng=np.random.default_rng(seed))
    return aside, given


@every_proxy
def test_it_says_whose_rows_they_are(name):
    source = proxies.get(name).source
    aside, given = _rows(name)
    assert isinstance(source, ProxySource)
    assert (len(aside) > 0) == (source is ProxySource.EXTERNAL)
    assert (len(given) > 0) == (source is ProxySource.POOLED)


@every_proxy
def test_rows_are_ascending_unique_and_there(name):
    for rows, bound in zip(_rows(name), (len(LABELS), 200), strict=True):
        assert rows.dtype == np.int64
        assert bool((np.diff(rows) > 0).all())
        assert bool(((rows >= 0) & (rows < bound)).all())


@every_proxy
def test_something_is_left_to_train_on(name):
    aside, given = _rows(name)
    assert len(aside) < len(LABELS)
    assert len(given) < 200


@every_proxy
def test_the_rng_alone_decides(name, global_seed):
    with global_seed(0):
        first = np.concatenate(_rows(name))
    with global_seed(1):
        again = np.concatenate(_rows(name))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, np.concatenate(_rows(name, seed=1)))


@every_proxy
@pytest.mark.parametrize("n_private", [0, 1, 2])
def test_poor_clients_are_asked_for_no_more_than_they_have(name, n_private):
    given = proxies.get(name)().contribution(n_private, rng=np.random.default_rng(0))
    assert len(given) <= n_private
