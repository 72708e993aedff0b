"""Memory that one training step frees and the next asks for again stays with the process.

By default glibc gives a freed block of some hundred KiB back to the system, and the next one of its
kind is made of fresh pages, each of which costs a fault. How often that happens depends on what
the process has freed before; at worst it takes a fifth of a small network's step.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of ``malloc.h``."""
KEPT = 128 << 20
"""Free bytes at the end of the heap that are not given back."""
LARGE = 32 << 20
"""Blocks from this size on, the most that glibc takes, are given back as soon as they are free."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Tell glibc for the rest of this process and those it forks; do nothing with any other."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGE)
