"""What every model promises: logits from a plain module that its stream alone decides."""

from __future__ import annotations

import pytest
import torch

from fedkd.models.base import Initializer, initialized, models

every_model = pytest.mark.parametrize("name", models.names())
IMAGE, SEQUENCE, N_CLASSES = (1, 28, 28), (20,), 7


def _module(name, *, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    shape = SEQUENCE if models.get(name).tokens else IMAGE
    return initialized(models.get(name)(), shape, N_CLASSES, rng=rng)


def _inputs(name, n: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(9)
    if models.get(name).tokens:
        return torch.randint(N_CLASSES, (n, *SEQUENCE), generator=rng)
    return torch.rand(n, *IMAGE, generator=rng)


@every_model
def test_it_gives_logits_and_every_parameter_learns(name):
    module = _module(name).train()
    logits = module(_inputs(name, 4))
    positions = SEQUENCE if models.get(name).tokens else ()
    assert logits.shape == (4, *positions, N_CLASSES)
    assert logits.dtype == torch.float32
    rows = logits.flatten(0, -2)
    torch.nn.functional.cross_entropy(rows, torch.arange(len(rows)) % N_CLASSES).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert bool((rows.exp().sum(dim=1) != 1).all()), "probabilities, not logits"


@pytest.mark.parametrize("name", [name for name in models.names() if models.get(name).tokens])
def test_no_position_sees_a_later_token(name):
    module, tokens = _module(name).eval(), _inputs(name, 2)
    changed = tokens.clone()
    changed[:, 11] = (changed[:, 11] + 1) % N_CLASSES
    before, after = module(tokens), module(changed)
    assert torch.equal(before[:, :11], after[:, :11])
    assert bool((before[:, 11:] != after[:, 11:]).any(dim=(0, 2)).all()), "no memory of the past"


@every_model
def test_its_state_can_be_averaged(name):
    state = _module(name).state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert set(state) == {key for key, _ in _module(name).named_parameters()}


@every_model
def test_a_stored_state_rebuilds_it(name):
    first, other = _module(name).eval(), _module(name, seed=1).eval()
    assert not torch.equal(first(_inputs(name, 3)), other(_inputs(name, 3)))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(_inputs(name, 3)), other(_inputs(name, 3)))


@every_model
def test_its_stream_alone_decides_its_weights(name, global_seed):
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in _module(name, seed=seed).parameters()])

    with global_seed(0):
        before = torch.get_rng_state()
        first = weights(1)
        assert torch.equal(torch.get_rng_state(), before)
    with global_seed(1):
        assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


@every_model
def test_one_module_after_another_is_as_each_would_be_alone(name):
    shape = SEQUENCE if models.get(name).tokens else IMAGE
    initializer = Initializer(models.get(name)(), shape, N_CLASSES)
    for seed in (3, 4, 3):
        rng, alone = torch.Generator().manual_seed(seed), _module(name, seed=seed)
        found = initializer.module(rng)
        with torch.no_grad():
            for one, other in zip(found.parameters(), alone.parameters(), strict=True):
                assert torch.equal(one, other)
                one.fill_(7)  # what is done with one module is nothing to the next
        expected = torch.Generator().manual_seed(seed)
        initialized(models.get(name)(), shape, N_CLASSES, rng=expected)
        assert torch.equal(rng.get_state(), expected.get_state())
