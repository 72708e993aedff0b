"""A module is drawn anew in place only where that is what building it would have drawn."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fedkd.models.base import Initializer, Model, initialized
from fedkd.models.mlp import MLP


class Scaled(nn.Linear):
    """Its reset only halves what is there."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.ready = True

    def reset_parameters(self) -> None:
        if not hasattr(self, "ready"):
            super().reset_parameters()
            return
        with torch.no_grad():
            self.weight.mul_(0.5)


class Own(nn.Module):
    """A parameter that no layer's reset knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight


class Backwards(nn.Module):
    """Its layers are made in another order than they are registered in."""

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(4, 3)
        self.first, self.last = nn.Linear(4, 4), last


class Zeroed(nn.Module):
    """One of its layers is changed after it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(4, 3)
        nn.init.zeros_(self.only.weight)


@dataclass(frozen=True)
class Odd(Model):
    """Builds one of the above."""

    part: type[nn.Module]

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return it, whatever the shapes."""
        return self.part()


@pytest.mark.parametrize("part", [Scaled, Own, Backwards, Zeroed])
def test_a_module_that_its_layers_do_not_draw_is_built_each_time(part):
    initializer, made = Initializer(Odd(part), (4,), 3), list[nn.Module]()
    for seed in (1, 2, 1):
        found = initializer.module(torch.Generator().manual_seed(seed))
        alone = initialized(Odd(part), (4,), 3, rng=torch.Generator().manual_seed(seed))
        for one, other in zip(found.parameters(), alone.parameters(), strict=True):
            assert torch.equal(one, other)
        made.append(found)
    assert made[0] is not made[2]


def test_one_module_serves_where_its_layers_draw_it():
    initializer = Initializer(MLP(), (4,), 3)
    first = initializer.module(torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    assert initializer.module(torch.Generator().manual_seed(2)) is first
    assert torch.equal(torch.get_rng_state(), before), "torch's global stream is as it was"
