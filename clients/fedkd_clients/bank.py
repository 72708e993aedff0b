"""The rows of all clients of a simulation, in memory that worker processes share.

Where all rows together are more than this machine should hold, they lie in files without a name:
pages of them are let go of once a client's round is over, and the operating system keeps in memory
what is used most. Fewer rows have nothing to do with a disk.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from fedkd_clients.state import ClientState

PAGED_FROM = 2**30
"""Bytes of all rows from which on they are not held in memory between rounds."""
FILES = 16
"""Over which rows are dealt out: two workers that write to one file wait for each other."""


class Bank:
    """A :class:`~fedkd_clients.store.ClientStore` on the CPU, to be made before workers are forked.

    Args:
        widths: numbers in each client's row, by client id.
    """

    keeps_answers = False

    def __init__(self, widths: Sequence[int]) -> None:
        numbers = mmap.PAGESIZE // 4
        sizes = [-(-width // numbers) * mmap.PAGESIZE for width in widths]
        self._paged = sum(sizes) > PAGED_FROM
        ends = [0] * (FILES if self._paged else 1)
        self._starts: list[tuple[int, int]] = []
        for client, size in enumerate(sizes):
            part = client % len(ends)
            self._starts.append((part, ends[part]))
            ends[part] += size
        self._widths = widths
        self._parts = [_Part.of(max(1, end), paged=self._paged) for end in ends]
        self._known = mmap.mmap(-1, max(1, len(widths)))  # a byte a client

    def holds(self, client: int) -> bool:
        """Return whether the row was kept."""
        return bool(self._known[client])

    def get(self, client: int, state: ClientState) -> None:
        """Have the row where it lies; what else the client carried, its worker had."""
        state.move(self._place(client))
        self._rests(client, state)

    def put(self, client: int, state: ClientState) -> None:
        """Keep the row in the shared memory; let go of its pages where there are too many."""
        if not self.holds(client):
            self._write(client, state.row)
            state.move(self._place(client))
            self._known[client] = 1
        elif self._paged and state.drafted:
            self._write(client, state.row)
            state.revert()
        else:
            state.settle()
        self._rests(client, state)
        state.rest()

    def _place(self, client: int) -> Tensor:
        part, start = self._starts[client]
        memory, width = self._parts[part].memory, self._widths[client]
        return torch.frombuffer(memory, dtype=torch.float32, count=width, offset=start)

    def _write(self, client: int, row: Tensor) -> None:
        """Write a row in one piece.

        Page by page, into a file that is mapped, it is several times as dear, and waits for the
        file system while another worker does the same.
        """
        part, at = self._starts[client]
        file, left = self._parts[part].file, row.numpy().data.cast("B")
        if file is None:
            self._place(client).copy_(row)
            return
        while left:  # of a disk that is filling up, a part; after it comes the error
            written = os.pwrite(file.fileno(), left, at)
            at, left = at + written, left[written:]

    def _rests(self, client: int, state: ClientState) -> None:
        part, start = self._starts[client]
        one = self._parts[part]
        if one.file is not None:
            length = 4 * self._widths[client]
            state.rest = partial(one.memory.madvise, mmap.MADV_DONTNEED, start, length)


class _Part(NamedTuple):
    """Memory that processes share, and the file it is of, if any."""

    memory: mmap.mmap
    file: BinaryIO | None

    @classmethod
    def of(cls, size: int, *, paged: bool) -> _Part:
        if not paged:
            return cls(mmap.mmap(-1, size), None)
        file = tempfile.TemporaryFile()  # noqa: SIM115
        file.truncate(size)
        return cls(mmap.mmap(file.fileno(), size), file)
