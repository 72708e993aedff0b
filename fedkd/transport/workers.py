"""Clients of a simulation in worker processes: one a core, each with some groups of clients.

A worker is forked from this process, so it starts in no time and shares the rows of all clients
(``bank.py``); requests and answers cross as bytes, in memory that both share. A worker that dies
fails its round and is replaced: the new one finds their rows as the last finished round left them.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext
from typing import cast

import torch

from fedkd.methods.base import Method
from fedkd.transport.batch import Clients, Intake
from fedkd.transport.frame_grid import FrameGrid, Respond, responder
from fedkd.transport.frames import Frame, pieces, unpack


class WorkerGrid(FrameGrid["ForkedWorker"]):
    """Groups of clients in processes of their own.

    Args:
        clients: the client side; every worker has its own copy and answers for its groups.
        intake: the server's side of taking in uploads, likewise.
        method: knows how folded uploads become bytes.
        n_workers: processes; at most one a group.
        n_clients: clients of the run.
    """

    def __init__(
        self,
        clients: Clients,
        intake: Intake,
        *,
        method: Method,
        n_workers: int,
        n_clients: int,
    ) -> None:
        super().__init__(method=method, n_clients=n_clients)
        self._respond = responder(clients, intake, method=method, n_clients=n_clients)
        self._workers = [self._start(n) for n in range(n_workers)]

    def process_ids(self) -> list[int]:
        """Return the workers' process ids."""
        return [worker.process_id for worker in self._workers]

    def _start(self, n: int) -> ForkedWorker:
        return ForkedWorker(self._respond)

    def _ready(self, waiting: Sequence[ForkedWorker]) -> Sequence[ForkedWorker]:
        ready = wait([worker.answers for worker in waiting])
        return [worker for worker in waiting if worker.answers in ready]


class ForkedWorker:
    """A forked process at the other end of two lines.

    Attributes:
        answers: readable once an answer is there.
        process_id: of the process.
    """

    def __init__(self, respond: Respond) -> None:
        context = multiprocessing.get_context("fork")
        self._questions, self._answers = _Line(context), _Line(context)
        work = context.Process(
            target=_work, args=(self._questions, self._answers, respond), daemon=True
        )
        self._process = work
        self._process.start()
        self._questions.reads.close()
        self._answers.writes.close()
        self.answers = self._answers.reads
        self.process_id = self._process.pid or 0

    def send(self, frame: Frame) -> bool:
        """Return whether the worker was there to be sent to."""
        try:
            self._questions.send(frame)
        except OSError:
            return False
        return True

    def receive(self) -> Frame | None:
        """Return the answer, good until the next frame is sent; None when the worker died."""
        try:
            return self._answers.receive()
        except (EOFError, OSError):
            return None

    def close(self) -> None:
        """End the process. Closed pipes alone would not do: workers forked later hold them too."""
        with contextlib.suppress(OSError):
            self._questions.end()
        self._questions.writes.close()
        self._answers.reads.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class _Line:
    """One way from a process to one that is forked from it, or back; a frame at a time.

    Frames lie in memory that both share; a pipe says how long they are, and that they are there.
    One that is too long for the memory goes through the pipe.
    """

    def __init__(self, context: ForkContext) -> None:
        pipe = (cast("Connection", end) for end in context.Pipe(duplex=False))
        self.reads, self.writes = pipe
        self._memory = memoryview(mmap.mmap(-1, ROOM))

    def send(self, frame: Frame) -> None:
        """Write a frame over the one before."""
        parts = pieces(*frame)
        size = sum(map(len, parts))
        if size > ROOM:
            self.writes.send_bytes(b"".join(parts))
            return
        start = 0
        for part in parts:
            self._memory[start : start + len(part)] = part
            start += len(part)
        self.writes.send_bytes(size.to_bytes(_LENGTH))

    def receive(self) -> Frame:
        """Wait for a frame; EOFError after the last one."""
        told = self.reads.recv_bytes()
        if not told:
            raise EOFError
        return unpack(told if len(told) > _LENGTH else self._memory[: int.from_bytes(told)])

    def end(self) -> None:
        """Say that no more frames come."""
        self.writes.send_bytes(b"")


def _work(questions: _Line, answers: _Line, respond: Respond) -> None:
    """Answer until the parent is gone. Nothing of the parent's clean-up runs here."""
    questions.writes.close()
    answers.reads.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            answers.send(respond(questions.receive()))
    os._exit(0)


ROOM = 1 << 26
"""Bytes that a frame has in memory, which takes as much of it as the longest one needs."""
_LENGTH = 8
"""Bytes that say how long a frame is; a frame itself is longer."""
