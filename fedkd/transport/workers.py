"""Clients of a simulation in worker processes: one a core, each with some groups of clients.

A worker is forked from this process, so it starts in no time and shares the rows of all clients
(``bank.py``); requests and answers cross as bytes. A worker that dies fails its round and is
replaced: the new one finds their rows as the last finished round left them.
"""

from __future__ import annotations

import contextlib
import fcntl
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
from fedkd.transport.frames import Frame, pack, unpack


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
    """A forked process at the other end of two pipes.

    Attributes:
        answers: where they come in.
        process_id: of the process.
    """

    def __init__(self, respond: Respond) -> None:
        context = multiprocessing.get_context("fork")
        questions, self._questions = _roomy_pipe(context)
        self.answers, answers = _roomy_pipe(context)
        ours = (self._questions, self.answers)
        work = context.Process(target=_work, args=(questions, answers, ours, respond), daemon=True)
        self._process = work
        self._process.start()
        questions.close()
        answers.close()
        self.process_id = self._process.pid or 0

    def send(self, frame: Frame) -> bool:
        """Return whether the worker was there to be sent to."""
        return self._send(pack(*frame))

    def receive(self) -> bytes | None:
        """Return the answer; None when the worker died."""
        try:
            return self.answers.recv_bytes()
        except (EOFError, OSError):
            return None

    def close(self) -> None:
        """End the process. Closed pipes alone would not do: workers forked later hold them too."""
        self._send(_STOP)
        self._questions.close()
        self.answers.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, data: bytes) -> bool:
        try:
            self._questions.send_bytes(data)
        except OSError:
            return False
        return True


def _roomy_pipe(context: ForkContext) -> tuple[Connection, Connection]:
    """Return both ends of a pipe, to read and to write, that takes a whole frame at a time.

    With the 64 KiB that pipes begin with, writer and reader would wait for each other in turns.
    """
    reads, writes = (cast("Connection", end) for end in context.Pipe(duplex=False))
    with contextlib.suppress(AttributeError, OSError):  # not on Linux, or more than is allowed
        fcntl.fcntl(writes.fileno(), fcntl.F_SETPIPE_SZ, ROOM)
    return reads, writes


def _work(
    questions: Connection, answers: Connection, parents: Sequence[Connection], respond: Respond
) -> None:
    """Answer until the parent is gone. Nothing of the parent's clean-up runs here."""
    for end in parents:
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while data := questions.recv_bytes():
            answers.send_bytes(respond(unpack(data)))
    os._exit(0)


ROOM = 1 << 20
"""Bytes of a pipe, the most that Linux lets everybody have."""
_STOP = b""
