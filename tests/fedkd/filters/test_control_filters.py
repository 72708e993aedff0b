"""The controls: own rows, all rows, random rows, true classes."""

import dataclasses

import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.features.pca import PCA
from fedkd.filters.density import DensityFilter
from fedkd.filters.keep_all import KeepAll
from fedkd.filters.kmeans import KMeansFilter
from fedkd.filters.own_only import OwnOnly
from fedkd.filters.random_rows import RandomRows
from fedkd.filters.true_classes import TrueClasses


def test_own_only_and_keep_all_read_nothing_private(one_class_split, seeded):
    view = one_class_split[1]
    assert torch.equal(OwnOnly().weights({}, view), view.own.float())
    assert torch.equal(KeepAll().weights({}, view), torch.ones(len(view.own)))
    for chosen in (OwnOnly(), KeepAll()):
        assert chosen.fit(view, rng=seeded(0)) == {}
        assert not chosen.reads_private
        assert chosen.space is None


@pytest.mark.parametrize("like", [KMeansFilter(), DensityFilter()])
def test_random_rows_deals_out_the_same_weights_elsewhere(one_class_split, seeded, like):
    view, chosen = one_class_split[0], RandomRows(like=like)
    state = chosen.fit(view, rng=seeded(0))
    weights = chosen.weights(state, view)
    original = like.weights(like.fit(view, rng=seeded(0)), view)
    assert torch.equal(weights.sort().values, original.sort().values)
    assert not torch.equal(weights, original)
    assert torch.equal(weights, chosen.weights(chosen.fit(view, rng=seeded(0)), view))
    other = chosen.weights(chosen.fit(view, rng=seeded(1)), view)
    assert not torch.equal(weights, other)


def test_random_rows_measures_where_its_model_does_and_refuses_oracles():
    assert RandomRows().space == PCA()
    assert RandomRows(like=KeepAll()).space is None
    with pytest.raises(ConfigError, match="TrueClasses"):
        RandomRows(like=TrueClasses())


def test_true_classes_keeps_the_rows_of_the_classes_held(one_class_split, seeded):
    view = dataclasses.replace(one_class_split[0], labels=torch.tensor([1, 4, 4]))
    state = TrueClasses().fit(view, rng=seeded(0))
    kept = TrueClasses().weights(state, view).bool()
    assert set(view.proxy_labels[kept].tolist()) == {1, 4}
    assert int(kept.sum()) == 48
    assert TrueClasses.oracle
    with pytest.raises(RuntimeError, match="proxy_labels=None"):
        TrueClasses().weights(state, dataclasses.replace(view, proxy_labels=None))
