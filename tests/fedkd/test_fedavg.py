"""FedAvg's sums: short float32 lanes into float64, in any grouping, and as tensors to cross."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fedkd.flat import FlatArrays
from fedkd.methods.fedavg import LANE, FedAvg
from fedkd.models.base import Model, models
from fedkd.types import Update

METHOD = FedAvg()


def _updates(n: int) -> list[Update]:
    rng = torch.Generator().manual_seed(3)
    return [
        Update(
            arrays=FlatArrays.of({"w": torch.randn(3, 4, generator=rng), "b": torch.rand(2)}),
            weight=float(torch.randint(1, 90, (), generator=rng)),
        )
        for _ in range(n)
    ]


def _total(updates: list[Update]):
    state = None
    for update in updates:
        state = METHOD.accumulate(state, update, n_rows=0)
    return state


@pytest.mark.parametrize("n", [1, LANE - 1, LANE, LANE + 1, 3 * LANE + 2])
def test_the_mean_is_that_of_exact_sums(n):
    updates = _updates(n)
    weights = torch.tensor([u.weight for u in updates], dtype=torch.float64)
    vectors = torch.stack([FlatArrays.of(u.arrays).vector for u in updates]).double()
    exact = (weights[:, None] * vectors).sum(dim=0) / weights.sum()
    mean = METHOD.finish(_total(updates), rng=torch.Generator())
    assert isinstance(mean, Update)
    vector = FlatArrays.of(mean.arrays).vector
    torch.testing.assert_close(vector.double(), exact, rtol=1e-5, atol=1e-6)
    assert list(mean.arrays) == ["w", "b"]


def test_uploads_stay_as_they_are():
    updates = _updates(3)
    before = [FlatArrays.of(u.arrays).vector.clone() for u in updates]
    _total(updates)
    assert all(
        torch.equal(FlatArrays.of(u.arrays).vector, was)
        for u, was in zip(updates, before, strict=True)
    )


def test_totals_cross_to_another_process_bit_by_bit_and_add_up_there():
    left, right = _total(_updates(20)), _total(_updates(5))
    tensors, facts = METHOD.to_tensors(left)
    back = METHOD.from_tensors({name: value.clone() for name, value in tensors.items()}, facts)
    here, there = METHOD.merge(left, right), METHOD.merge(back, right)
    assert here is left, "the left one is used up"
    assert torch.equal(here.settled(), there.settled())
    assert (here.weight, here.layout) == (there.weight, there.layout)


def test_parameters_in_another_order_are_added_by_name():
    one, other = _updates(2)
    turned = Update(arrays=dict(reversed(list(other.arrays.items()))), weight=other.weight)
    assert torch.equal(_total([one, other]).settled(), _total([one, turned]).settled())


def test_no_updates_have_no_mean():
    with pytest.raises(ValueError, match="weight 0"):
        METHOD.finish(None, rng=torch.Generator())


@dataclass(frozen=True)
class BatchNormed(Model):
    """A model whose batches leave a mean, a variance and a count behind."""

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(input_shape), 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, n_classes),
        )


def test_running_statistics_are_averaged_with_the_parameters(play, tiny):
    models.register("averaged_batch_norm")(BatchNormed)
    try:
        results = play(tiny("method=fedavg", "models=averaged_batch_norm", "rounds=2"))
    finally:
        del models._classes["averaged_batch_norm"]
    assert [result.failures for result in results] == [[], [], []]
    first, last = (result.traffic.broadcast.arrays for result in (results[0], results[-1]))
    assert torch.equal(first["2.running_mean"], torch.zeros(8))
    assert bool((last["2.running_mean"] != 0).all())
    assert float(last["2.num_batches_tracked"]) > float(first["2.num_batches_tracked"]) == 0
