"""Python's collector of reference cycles, kept from walking torch's modules again and again.

Half a million objects come into being with torch and Flower and live as long as the process. A full
collection walks them all, which takes a tenth of a second, and writes to every page that a worker
shares with the process it was forked from.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

_OBJECTS = 50_000
"""Made between two collections of the young; Python's own figure is 700 or 2,000."""


def rarely() -> None:
    """Collect more seldom, in a process that does one thing and ends."""
    gc.set_threshold(_OBJECTS, 10, 10)


def at_last() -> None:
    """Let what there is die with the process, instead of walking it all once more."""
    gc.freeze()


@contextmanager
def shared() -> Generator[None]:
    """Make what there is no business of the collectors of processes that are forked inside."""
    ours = gc.get_freeze_count() == 0
    gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
