"""Numeric libraries on one thread: the same bits on any number of cores, and no fight over them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def one_thread() -> AbstractContextManager[Any]:
    """Hold BLAS and OpenMP to one thread inside the block; import the library that runs first."""
    from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingTypeStubs]

    return threadpool_limits(limits=1)
