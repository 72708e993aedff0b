"""Models of tokens: shapes, refusals, what they cost, and that they learn to continue a text."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fedkd.errors import ConfigError
from fedkd.models.base import initialized
from fedkd.models.gru_char import GRUChar
from fedkd.models.transformer_char import TransformerChar

SEQUENTIAL = [GRUChar(), TransformerChar()]


@pytest.mark.parametrize("model", SEQUENTIAL)
@pytest.mark.parametrize("shape", [(1, 28, 28), (4, 4), ()])
def test_what_is_no_sequence_is_refused(model, shape):
    with pytest.raises(ConfigError, match="needs sequences of tokens") as error:
        model.build(shape, 10)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("model", SEQUENTIAL)
def test_a_sequence_is_treated_alike_in_any_batch(model):
    module = initialized(model, (9,), 5, rng=torch.Generator().manual_seed(0)).train()
    tokens = torch.randint(5, (4, 9), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module(tokens)[:1], module(tokens[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", SEQUENTIAL)
def test_it_learns_what_only_memory_can_know(model):
    """Ten random sequences by heart: the second half follows from the first alone."""
    rng = torch.Generator().manual_seed(2)
    module = initialized(model, (12,), 6, rng=torch.Generator().manual_seed(0))
    text = torch.randint(6, (10, 13), generator=rng)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(120):
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    guessed = module(text[:, :-1]).argmax(dim=2)
    assert float((guessed[:, 4:] == text[:, 5:]).double().mean()) > 0.95


def test_parameter_counts_by_hand():
    def count(model) -> int:
        return sum(p.numel() for p in model.build((48,), 76).parameters())

    assert count(GRUChar()) == 76 * 48 + 3 * 128 * (48 + 128 + 2) + 129 * 76
    block = 2 * 2 * 96 + 97 * 3 * 96 + 97 * 96 + 97 * 384 + 385 * 96
    assert count(TransformerChar()) == (76 + 48) * 96 + 2 * block + 2 * 96 + 97 * 76


def test_heads_must_share_the_width():
    with pytest.raises(ConfigError, match=r"width: 50 is no multiple of heads=4; give 48"):
        TransformerChar(width=50)
