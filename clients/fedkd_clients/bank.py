"""The rows of all clients of a simulation, in memory that worker processes share.

Where all rows together are more than this machine should hold, they lie in a file without a name:
pages of it are let go of once a client's round is over, and the operating system keeps in memory
what is used most. Fewer rows have nothing to do with a disk.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from functools import partial

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
        self._file = tempfile.TemporaryFile() if size > PAGED_FROM else None  # noqa: SIM115
        if self._file is None:
            self._memory = mmap.mmap(-1, size)
        else:
            self._file.truncate(size)
            self._memory = mmap.mmap(self._file.fileno(), size)
        self._known = mmap.mmap(-1, max(1, len(widths)))  # a byte a client
        self._spare: dict[int, list[Tensor]] = {}

    def row(self, client: int, *, width: int, device: torch.device) -> Tensor:
        """Return the client's part of the shared memory; of one that was not kept yet, other.

        That is used again: rows of many sizes among what stays would tear the heap to pieces.
        """
        if self.holds(client):
            return self._place(client, width)
        spare = self._spare.get(width)
        return spare.pop() if spare else torch.empty(width)

    def holds(self, client: int) -> bool:
        """Return whether the row was kept."""
        return bool(self._known[client])

    def get(self, client: int, state: ClientState) -> None:
        """Leave the row as it is; what else the client carried, its worker had."""
        self._rests(client, state)

    def put(self, client: int, state: ClientState) -> None:
        """Keep the row in the shared memory; let go of its pages where there are too many."""
        if self.holds(client):
            state.settle()
        else:
            self._write(client, state.row)
            self._spare.setdefault(len(state.kept), []).append(state.kept)
            state.move(self._place(client, len(state.row)))
            self._known[client] = 1
        self._rests(client, state)
        state.rest()

    def _place(self, client: int, width: int) -> Tensor:
        start = self._starts[client]
        return torch.frombuffer(self._memory, dtype=torch.float32, count=width, offset=start)

    def _write(self, client: int, row: Tensor) -> None:
        """Write a first row in one piece.

        Page by page, into a file that is mapped, it is several times as dear, and waits for the
        file system while another worker does the same.
        """
        if self._file is None:
            self._place(client, len(row)).copy_(row)
            return
        at, left = self._starts[client], row.numpy().data.cast("B")
        while left:  # of a disk that is filling up, a part; after it comes the error
            written = os.pwrite(self._file.fileno(), left, at)
            at, left = at + written, left[written:]

    def _rests(self, client: int, state: ClientState) -> None:
        if self._file is not None:
            state.rest = partial(self._let_go, client)

    def _let_go(self, client: int) -> None:
        start = self._starts[client]
        self._memory.madvise(mmap.MADV_DONTNEED, start, self._starts[client + 1] - start)
