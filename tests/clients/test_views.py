"""What a filter is shown of a client is no more than it declares."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fedkd_clients.learner import FleetLearner
from fedkd_clients.store import MemoryStore

from fedkd.filters.base import ClientView, Filter, FilterState
from fedkd.filters.keep_all import KeepAll
from fedkd.filters.kmeans import KMeansFilter
from fedkd.filters.random_rows import RandomRows
from fedkd.training.steps import as_model_input
from fedkd.types import ProxySet, ProxySource


class Curious(Filter):
    """Reads what it did not declare."""

    reads_private = False

    def __init__(self) -> None:
        self.seen: list[ClientView] = []

    def fit(self, view: ClientView, *, rng: torch.Generator) -> FilterState:
        """Take note of everything."""
        self.seen.append(view)
        return {}

    def weights(self, state: FilterState, view: ClientView) -> torch.Tensor:
        """Keep all."""
        self.seen.append(view)
        return torch.ones(len(view.proxy))


@pytest.fixture
def learner(tiny) -> FleetLearner:
    made = FleetLearner(tiny(), MemoryStore(), device=torch.device("cpu"))
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (40, 1, 8, 8), generator=rng, dtype=torch.uint8)
    proxy = ProxySet(inputs=inputs, ids=torch.arange(40), owner=None, source=ProxySource.EXTERNAL)
    made.receive(0, proxy)
    return made


def test_a_filter_that_declares_nothing_is_shown_no_private_example(learner):
    curious = Curious()
    learner.weigh([0], curious)
    assert len(curious.seen) == 2
    for view in curious.seen:
        assert (len(view.private), len(view.labels), len(view.contributed)) == (0, 0, 0)
        assert len(view.proxy) == 40


@pytest.mark.parametrize("filter_", [KMeansFilter(), RandomRows()])
def test_one_that_does_is_shown_all(learner, filter_):
    data = learner.private(0)
    view = learner._views.view(0, filter_, data=data, proxy=learner._proxy(0))
    assert filter_.reads_private
    assert len(view.private) == len(view.labels) == len(view.contributed) == len(data.train) > 0


def test_examples_of_a_pool_are_copied_once_somebody_needs_them_alone(learner):
    train = learner.private(0).train
    learner.weigh([0], KeepAll())
    assert "inputs" not in vars(train)
    assert torch.equal(train.inputs, train.pool[train.rows])
    assert train.inputs is train.inputs


def test_models_read_the_proxy_set_as_it_is_now(learner):
    first = learner._proxy(0)
    assert torch.equal(learner._views.read(first), as_model_input(first.inputs))
    assert learner._views.read(first) is learner._views.read(first)
    learner.receive(0, replace(first, inputs=255 - first.inputs, version=first.version + 1))
    second = learner._proxy(0)
    assert torch.equal(learner._views.read(second), as_model_input(255 - first.inputs))


def test_some_rows_are_predicted_as_among_all(learner):
    every = torch.arange(40)
    (whole,) = learner.predict([0], [every])
    learner.state(0).revert()
    (some,) = learner.predict([0], [every[5:20]])
    torch.testing.assert_close(whole[5:20], some)
    (turned,) = learner.predict([0], [every.flip(0)])
    torch.testing.assert_close(turned, whole.flip(0))
