"""Known answers of the density weights."""

import dataclasses
import math

import torch

from fedkd.filters.base import ClientView
from fedkd.filters.density import DensityFilter


def _line(own_last: bool) -> ClientView:
    proxy = torch.tensor([[0.0], [2.0], [1.0], [1000.0], [1000.0]])
    return ClientView(
        private=proxy,
        contributed=torch.zeros(5, dtype=torch.bool),
        proxy=proxy,
        own=torch.tensor([False, False, False, False, own_last]),
        labels=torch.zeros(5, dtype=torch.int64),
    )


def test_weights_fall_with_the_distance_and_own_rows_count_in_full():
    state = {"centroids": torch.zeros(1, 1), "typical": torch.tensor(2.0)}
    weights = DensityFilter(beta=6.0).weights(state, _line(own_last=True))
    expected = torch.tensor([1.0, math.exp(-6), math.exp(-3), 1e-6, 1.0])
    torch.testing.assert_close(weights, expected)
    plain = DensityFilter(own_rule=False).weights(state, _line(own_last=True))
    assert plain[-1] == torch.tensor(1e-6)


def test_the_client_that_holds_a_class_has_the_largest_say(one_class_split, seeded):
    chosen = DensityFilter(own_rule=False)
    weights = torch.stack(
        [chosen.weights(chosen.fit(view, rng=seeded(0)), view) for view in one_class_split]
    )
    assert (weights > 0).all()
    assert torch.equal(weights.argmax(dim=0), one_class_split[0].proxy_labels)


def test_the_typical_distance_is_a_quantile_of_held_out_distances(one_class_split, seeded):
    view = one_class_split[0]
    low, middle = (
        DensityFilter(quantile=q).fit(view, rng=seeded(0))["typical"] for q in (0.1, 0.5)
    )
    assert 0 < low < middle


def test_a_client_with_hardly_any_rows_speaks_about_its_own_only(tiny, seeded):
    state = DensityFilter().fit(tiny, rng=seeded(0))
    assert torch.equal(DensityFilter().weights(state, tiny), tiny.own.float())


def test_rows_that_coincide_do_not_divide_by_zero(seeded):
    same = dataclasses.replace(_line(own_last=False), private=torch.zeros(5, 1))
    weights = DensityFilter().weights(DensityFilter().fit(same, rng=seeded(0)), same)
    torch.testing.assert_close(weights, torch.tensor([1.0, 1e-6, 1e-6, 1e-6, 1e-6]))
