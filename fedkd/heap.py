"""Memory that one training step frees and the next asks for again stays with the process.

By default glibc gives a freed block of some hundred KiB back to the system, and the next one of its
kind is made of fresh pages, each of which costs a fault. How often that happens depends on what
the process has freed before; at worst it takes a fifth of a small network's step.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import weakref
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


class Lender:
    """Large blocks of memory which live for a round, outside the heap, that are used again.

    Small objects that stay come to lie between such blocks, so that a heap which they are taken
    from grows from round to round; and fresh pages cost more than what is done with them.

    Args:
        kept: bytes of blocks that nobody uses, at most.
    """

    def __init__(self, *, kept: int = KEPT) -> None:
        self._most, self._kept = kept, 0
        self._spare: dict[int, list[mmap.mmap]] = {}

    def lend(self, size: int) -> memoryview:
        """Return memory of ``size`` bytes, of any content, until nobody holds the view any more."""
        spare = self._spare.get(size)
        if spare:
            block = spare.pop()
            self._kept -= size
        else:
            block = _fresh(size)
        view = memoryview(block)
        weakref.finalize(view, self._take_back, block).atexit = False
        return view

    def _take_back(self, block: mmap.mmap) -> None:
        size = len(block)
        if self._kept + size <= self._most:
            self._spare.setdefault(size, []).append(block)
            self._kept += size


def _fresh(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return block
