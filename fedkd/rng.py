"""Random streams: one independent generator per seed, purpose, round and client.

Nobody touches a global seed. Code that can only draw from torch's global stream (module
initializers, dropout) runs inside :func:`borrowed`, which puts the global state back afterwards.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch


def _sequence(seed: int, purpose: str, n_round: int, client: int) -> np.random.SeedSequence:
    key = (zlib.crc32(purpose.encode()), n_round, client + 1)
    return np.random.SeedSequence(entropy=seed, spawn_key=key)


def numpy_stream(
    seed: int, purpose: str, *, round: int = 0, client: int = -1
) -> np.random.Generator:
    """Return the NumPy generator of this (seed, purpose, round, client); -1 is the server."""
    return np.random.default_rng(_sequence(seed, purpose, round, client))


def torch_stream(seed: int, purpose: str, *, round: int = 0, client: int = -1) -> torch.Generator:
    """Return the CPU torch generator of this (seed, purpose, round, client); -1 is the server."""
    state = _sequence(seed, purpose, round, client).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def torch_streams(
    seed: int, purpose: str, *, round: int = 0, clients: Sequence[int]
) -> list[torch.Generator]:
    """Return the :func:`torch_stream` of each client, in a small part of the time."""
    begun = _mixed(seed, zlib.crc32(purpose.encode()), round)
    if begun is None:
        return [torch_stream(seed, purpose, round=round, client=client) for client in clients]
    seeds = _finished(*begun, np.array(clients, dtype=np.uint64) + np.uint64(1))
    return [torch.Generator().manual_seed(one) for one in seeds.tolist()]


def noise_stream(
    seed: int | None, purpose: str, *, round: int = 0, client: int = -1
) -> torch.Generator:
    """Return the generator of privacy noise: a stream of ``seed``, or a secret one for None.

    A secret stream cannot be repeated. Neither is safe against an attack on the generator itself,
    a Mersenne twister.
    """
    return _secret() if seed is None else torch_stream(seed, purpose, round=round, client=client)


def _secret() -> torch.Generator:
    """Return a generator whose whole state comes from the operating system.

    ``manual_seed`` would not do: torch's CPU generator ignores all but 32 bits of a seed, which
    can be tried out one by one.
    """
    rng = torch.Generator()
    state = rng.get_state()
    start = _STATE_HEADER
    words = state[start : start + 8 * _STATE_WORDS].view(torch.int64)
    drawn = np.frombuffer(secrets.token_bytes(4 * _STATE_WORDS), dtype=np.uint32)
    words.copy_(torch.from_numpy(drawn.astype(np.int64)))
    return rng.set_state(state)


_STATE_HEADER, _STATE_WORDS = 24, 624
"""Torch's CPU state: a header of three 64-bit fields, then the twister's words, 8 bytes each."""


@contextmanager
def borrowed(rng: torch.Generator) -> Generator[None]:
    """Let code that draws from torch's global CPU stream draw from ``rng`` instead."""
    before = torch.get_rng_state()
    torch.set_rng_state(rng.get_state())
    try:
        yield
    finally:
        rng.set_state(torch.get_rng_state())
        torch.set_rng_state(before)


# NumPy's SeedSequence for many clients at once. All that differs between them is the last word of
# the key, which it mixes in last: what comes before is worked out once. Its constants and its
# arithmetic are fixed by NumPy's promise to keep streams as they are.

_POOL, _WORD = 4, 0xFFFFFFFF
_INIT_A, _MULT_A, _INIT_B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R = 0xCA01F9DD, 0x4973F715


@lru_cache(maxsize=256)
def _mixed(seed: int, *key: int) -> tuple[tuple[int, ...], int] | None:
    """Return the pool after ``seed`` and ``key``, and the hash constant; None for long numbers."""
    if any(not 0 <= word <= _WORD for word in key) or seed < 0 or seed >> (32 * _POOL):
        return None
    words = [seed >> (32 * n) & _WORD for n in range(_POOL)]
    constant, pool = _INIT_A, list[int]()

    def hashed(value: int) -> int:
        nonlocal constant
        value ^= constant
        constant = constant * _MULT_A & _WORD
        value = value * constant & _WORD
        return value ^ value >> 16

    def mixed(left: int, right: int) -> int:
        found = (left * _MIX_L - right * _MIX_R) & _WORD
        return found ^ found >> 16

    pool = [hashed(word) for word in words]
    for source in range(_POOL):
        for place in range(_POOL):
            if source != place:
                pool[place] = mixed(pool[place], hashed(pool[source]))
    for word in key:
        pool = [mixed(part, hashed(word)) for part in pool]
    return tuple(pool), constant


def _finished(
    pool: tuple[int, ...], constant: int, words: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Mix in each last word of a key; return the seeds that :func:`torch_stream` takes."""
    seeds, begun = np.zeros_like(words), _INIT_B
    for n, part in enumerate(pool[:_NEEDED]):
        found = words ^ np.uint64(constant)
        constant = constant * _MULT_A & _WORD
        found = found * np.uint64(constant) & _LOW
        found = np.uint64(part * _MIX_L & _WORD) - (found ^ found >> _HALF) * np.uint64(_MIX_R)
        found &= _LOW
        found ^= found >> _HALF ^ np.uint64(begun)
        begun = begun * _MULT_B & _WORD
        found = found * np.uint64(begun) & _LOW
        seeds |= (found ^ found >> _HALF) << np.uint64(32 * n)
    return seeds >> np.uint64(1)


_LOW, _HALF = np.uint64(_WORD), np.uint64(16)
_NEEDED = 2
"""Words of a 64-bit seed."""
