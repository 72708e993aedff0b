"""One stream for each seed, purpose, round and client, and no global stream touched."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fedkd.rng import borrowed, noise_stream, numpy_stream, torch_stream, torch_streams

KEYS = list(itertools.product((0, 1), ("training", "filter"), (0, 1, 2), (-1, 0, 1)))


def _torch(seed, purpose, n_round, client) -> float:
    rng = torch_stream(seed, purpose, round=n_round, client=client)
    return float(torch.rand((), generator=rng, dtype=torch.float64))


def _numpy(seed, purpose, n_round, client) -> float:
    return float(numpy_stream(seed, purpose, round=n_round, client=client).random())


@pytest.mark.parametrize("draw", [_torch, _numpy])
def test_every_key_has_its_own_stream_and_always_the_same(draw):
    first = [draw(*key) for key in KEYS]
    assert len(set(first)) == len(KEYS)
    assert [draw(*key) for key in KEYS] == first


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**64 + 3, 2**127 + 9, 2**130])
@pytest.mark.parametrize("n_round", [0, 1, 70_000, 2**32 - 1, 2**32])
def test_streams_of_many_clients_are_those_of_each(seed, n_round):
    clients = [0, 1, 2, 99, 65_535, 2**20, 2**32 - 2]
    many = torch_streams(seed, "training", round=n_round, clients=clients)
    each = [torch_stream(seed, "training", round=n_round, client=c) for c in clients]
    assert [rng.initial_seed() for rng in many] == [rng.initial_seed() for rng in each]
    assert torch.equal(torch.rand(3, generator=many[3]), torch.rand(3, generator=each[3]))


def test_streams_look_independent():
    # 200 clients' 100 first normals: correlations of means with neighbours stay within 4 sigma.
    draws = torch.stack(
        [torch.randn(100, generator=torch_stream(0, "training", client=c)) for c in range(200)]
    )
    assert abs(float(draws.mean())) < 4 / (200 * 100) ** 0.5
    neighbours = (draws[1:] * draws[:-1]).mean()
    assert abs(float(neighbours)) < 4 / (199 * 100) ** 0.5


def test_a_large_seed_is_taken():
    assert _torch(2**63 + 5, "x", 0, 0) != _torch(5, "x", 0, 0)


def test_making_and_using_streams_leaves_the_global_ones_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    torch.rand(5, generator=torch_stream(0, "x"))
    numpy_stream(0, "x").random(5)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_borrowed_draws_from_the_stream_and_puts_the_global_state_back():
    before = torch.get_rng_state()
    with borrowed(torch_stream(0, "x")):
        inside = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inside, torch.rand(4, generator=torch_stream(0, "x")))


def test_borrowed_moves_the_stream_on():
    rng = torch_stream(0, "x")
    with borrowed(rng):
        torch.rand(4)
    with borrowed(rng):
        second = torch.rand(4)
    whole = torch_stream(0, "x")
    torch.rand(4, generator=whole)
    assert torch.equal(second, torch.rand(4, generator=whole))


def _fail_inside() -> None:
    with borrowed(torch_stream(0, "x")):
        torch.rand(3)
        raise KeyError


def test_borrowed_puts_the_state_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        _fail_inside()
    assert torch.equal(torch.get_rng_state(), before)


def _words(generator: torch.Generator) -> list[int]:
    return generator.get_state()[24 : 24 + 8 * 624].view(torch.int64).tolist()


def _seeded_successor(word: int) -> int:
    """Return the second word of a Mersenne twister that was seeded with ``word`` (32 bits)."""
    return (1812433253 * (word ^ (word >> 30)) + 1) % 2**32


def test_a_secret_stream_is_no_stream_of_a_32_bit_seed():
    seeded = _words(torch.Generator().manual_seed(12345))
    assert seeded[1] == _seeded_successor(seeded[0])
    secret = _words(noise_stream(None, "noise"))
    assert secret[1] != _seeded_successor(secret[0])
    assert len(set(secret)) > 600
    assert set(secret).isdisjoint(_words(noise_stream(None, "noise")))
    assert all(0 <= word < 2**32 for word in secret)


def test_a_secret_stream_is_as_good_as_any():
    drawn = torch.rand(100_000, generator=noise_stream(None, "noise"))
    assert abs(float(drawn.mean()) - 0.5) < 0.005  # 5.5 standard errors
    assert abs(float(drawn.var()) - 1 / 12) < 0.002
