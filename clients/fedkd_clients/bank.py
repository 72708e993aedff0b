"""The rows of all clients of a simulation, in memory that worker processes share.

The memory is a file without a name, as large as all rows together and at first empty. Where that
is more than this machine should hold, pages go back to the file once a client's round is over;
the operating system keeps what is used most.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor

from fedkd_clients.store import ClientState

PAGED_FROM = 2**30
"""Bytes of all rows from which on they are not held in memory between rounds."""


class Bank:
    """A :class:`~fedkd_clients.store.ClientStore` on the CPU, to be made before workers are forked.

    Args:
        widths: numbers in each client's row, by client id.
    """

    keeps_answers = False

    def __init__(self, widths: Sequence[int]) -> None:
        numbers = mmap.PAGESIZE // 4
        pages = [-(-width // numbers) for width in widths]
        self._starts = [0]
        for count in pages:
            self._starts.append(self._starts[-1] + count * mmap.PAGESIZE)
        size = max(1, self._starts[-1])
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)
        self._known = torch.zeros(len(widths), dtype=torch.bool).share_memory_()
        self._paged = size > PAGED_FROM

    def row(self, client: int, *, width: int, device: torch.device) -> Tensor:
        """Return the client's part of the shared memory."""
        return torch.frombuffer(
            self._memory, dtype=torch.float32, count=width, offset=self._starts[client]
        )

    def holds(self, client: int) -> bool:
        """Return whether the row was filled and kept."""
        return bool(self._known[client])

    def get(self, client: int, state: ClientState) -> None:
        """Leave the row as it is; what else the client carried, its worker had."""

    def put(self, client: int, state: ClientState) -> None:
        """Note that the row is filled; let go of its pages where there are too many."""
        self._known[client] = True
        if self._paged:
            start = self._starts[client]
            self._memory.madvise(mmap.MADV_DONTNEED, start, self._starts[client + 1] - start)
