"""Random streams: one independent generator per seed, purpose, round and client.

Nobody touches a global seed. Code that can only draw from torch's global stream (module
initializers, dropout) runs inside :func:`borrowed`, which puts the global state back afterwards.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
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
