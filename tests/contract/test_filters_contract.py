"""What every filter promises: weights in [0, 1] that only the client's view and the rng decide."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from fedkd.filters.base import ClientView, filters
from fedkd.filters.random_rows import RandomRows

every_filter = pytest.mark.parametrize("name", filters.names())
PROXY = 40


def _view(n_private: int = 80, *, all_contributed: bool = False) -> ClientView:
    rng = torch.Generator().manual_seed(3)
    private = torch.randn(n_private, 5, generator=rng)
    contributed = torch.arange(n_private) % 8 == 0
    if all_contributed:
        contributed = torch.ones_like(contributed)
    gave = private[contributed][:PROXY]
    foreign = 0.7 * torch.randn(PROXY - len(gave), 5, generator=rng)
    foreign[::2] += 4  # half of the others' rows lie far off
    return ClientView(
        private=private,
        contributed=contributed,
        proxy=torch.cat([foreign, gave]),
        own=torch.arange(PROXY) >= len(foreign),
        labels=torch.arange(n_private) % 3,
        n_classes=10,
        proxy_labels=torch.arange(PROXY) % 10,
    )


def _weights(filter_, view: ClientView, *, seed: int = 0) -> torch.Tensor:
    state = filter_.fit(view, rng=torch.Generator().manual_seed(seed))
    return filter_.weights(state, view)


@every_filter
@pytest.mark.parametrize("view", [_view(), _view(1), _view(2), _view(30, all_contributed=True)])
def test_weights_are_float32_between_zero_and_one(name, view):
    weights = _weights(filters.get(name)(), view)
    assert weights.dtype == torch.float32
    assert weights.shape == (PROXY,)
    assert bool(((weights >= 0) & (weights <= 1)).all())


@every_filter
def test_the_same_stream_gives_the_same_weights(name):
    view, filter_ = _view(), filters.get(name)()
    assert torch.equal(_weights(filter_, view), _weights(filter_, view))
    state = filter_.fit(view, rng=torch.Generator().manual_seed(0))
    assert torch.equal(filter_.weights(state, view), filter_.weights(state, view))


@every_filter
def test_many_clients_are_fitted_as_each_would_be_alone(name):
    filter_, views = filters.get(name)(), [_view(), _view(1), _view(60), _view(25)]

    def rngs():
        return [torch.Generator().manual_seed(i) for i in range(len(views))]

    states = filter_.fit_many(views, rngs())
    for view, rng, state in zip(views, rngs(), states, strict=True):
        alone = filter_.fit(view, rng=rng)
        assert alone.keys() == state.keys()
        for key in alone:
            torch.testing.assert_close(state[key], alone[key], rtol=0, atol=1e-6)


@every_filter
def test_no_global_seed_is_read_or_moved(name, global_seed):
    view, filter_, found = _view(), filters.get(name)(), []
    for seed in (0, 1):
        with global_seed(seed):
            before = torch.get_rng_state()
            found.append(_weights(filter_, view))
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)


@every_filter
def test_the_state_is_named_tensors_and_the_view_is_left_alone(name):
    view, copy, filter_ = _view(), _view(), filters.get(name)()
    state = filter_.fit(view, rng=torch.Generator().manual_seed(0))
    filter_.weights(state, view)
    assert all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())
    for field in fields(view):
        now, before = (torch.as_tensor(getattr(one, field.name)) for one in (view, copy))
        assert torch.equal(now, before)


@every_filter
def test_only_an_oracle_looks_at_proxy_labels(name):
    view, cls = _view(), filters.get(name)
    known = _weights(cls(), view)
    if cls.oracle:
        other = replace(view, proxy_labels=(view.proxy_labels + 1) % 10)
        assert not torch.equal(_weights(cls(), other), known)
        with pytest.raises(RuntimeError, match="proxy_labels=None"):
            _weights(cls(), replace(view, proxy_labels=None))
    else:
        assert torch.equal(_weights(cls(), replace(view, proxy_labels=None)), known)


@every_filter
def test_one_that_declares_no_private_reading_does_none(name):
    view, cls = _view(), filters.get(name)
    known = _weights(cls(), view)
    elsewhere = replace(view, private=view.private - 30, labels=view.labels + 5)
    moved = not torch.equal(_weights(cls(), elsewhere), known)
    assert moved == cls.reads_private


WITH_OWN_RULE = [n for n in filters.names() if hasattr(filters.get(n)(), "own_rule")]


@pytest.mark.parametrize("name", WITH_OWN_RULE)
def test_the_own_rule_keeps_own_rows_and_without_it_ownership_tells_nothing(name):
    with_rule, view = filters.get(name)(own_rule=True), _view()
    far = replace(view, proxy=view.proxy + 100 * view.own[:, None])
    assert _weights(with_rule, far)[view.own].tolist() == [1.0] * int(view.own.sum())
    without, nobody = replace(with_rule, own_rule=False), torch.zeros_like(view.own)
    assert torch.equal(_weights(without, far), _weights(without, replace(far, own=nobody)))
    assert bool((_weights(without, far)[view.own] < 1e-3).all())


def test_some_filter_has_an_own_rule():
    assert {"kmeans", "density"} <= set(WITH_OWN_RULE)


@pytest.mark.parametrize("name", [n for n in filters.names() if not filters.get(n).oracle])
def test_any_filter_can_be_dealt_out_at_random(name):
    like = filters.get(name)()
    shuffled = _weights(RandomRows(like=like), _view())
    assert torch.equal(shuffled.sort().values, _weights(like, _view()).sort().values)
