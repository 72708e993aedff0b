"""Clients of a simulation in worker processes: one a core, each with some groups of clients.

A worker is forked from this process, so it starts in no time and shares the rows of all clients
(``bank.py``); requests and answers cross as bytes. A worker that dies fails its round and is
replaced: the new one finds their rows as the last finished round left them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

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
        ready = wait([worker.pipe for worker in waiting])
        return [worker for worker in waiting if worker.pipe in ready]


class ForkedWorker:
    """A forked process at the other end of a pipe."""

    def __init__(self, respond: Respond) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        work = context.Process(target=_work, args=(theirs, self.pipe, respond), daemon=True)
        self._process = work
        self._process.start()
        theirs.close()
        self.process_id = self._process.pid or 0

    def send(self, frame: Frame) -> bool:
        """Return whether the worker was there to be sent to."""
        return self._send(pack(*frame))

    def receive(self) -> bytes | None:
        """Return the answer; None when the worker died."""
        try:
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            return None

    def close(self) -> None:
        """End the process. Its pipe alone would not do: workers forked later hold it open too."""
        self._send(_STOP)
        self.pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, data: bytes) -> bool:
        try:
            self.pipe.send_bytes(data)
        except OSError:
            return False
        return True


def _work(pipe: Connection, parents: Connection, respond: Respond) -> None:
    """Answer until the parent is gone. Nothing of the parent's clean-up runs here."""
    parents.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while data := pipe.recv_bytes():
            pipe.send_bytes(respond(unpack(data)))
    os._exit(0)


_STOP = b""
