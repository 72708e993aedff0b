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
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from fedkd.methods.base import Method
from fedkd.transport.batch import BatchGrid, Clients, Harvest, Intake, group_of, grouped
from fedkd.transport.frames import (
    Frame,
    of_harvests,
    of_replies,
    of_requests,
    pack,
    to_harvests,
    to_replies,
    to_requests,
    unpack,
)
from fedkd.transport.messages import Reply, Request
from fedkd.transport.stored import from_bytes, proxy_of, stored_proxy, to_bytes
from fedkd.types import ProxySet

DIED = "WorkerDied"
"""Reason of the failures of clients whose process ended under them."""


class WorkerGrid(BatchGrid):
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
        super().__init__(n_clients=n_clients)
        self._clients, self._intake, self._method = clients, intake, method
        self._proxy: bytes | None = None
        self._workers = [_Worker(self._serve) for _ in range(n_workers)]

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Ask all workers at once."""
        replies: dict[int, Reply] = {}
        for share, data in self._exchange(requests, {"do": "ask"}):
            if data is None:
                replies |= {r.client: Reply(client=r.client, error=DIED) for r in share}
            else:
                replies |= {reply.client: reply for reply in to_replies(data)}
        return [replies[request.client] for request in requests]

    def fold(self, requests: Sequence[Request], *, keep: bool) -> list[Harvest]:
        """Let all workers fold at once."""
        found: dict[int, Harvest] = {}
        for share, data in self._exchange(requests, {"do": "fold", "keep": keep}):
            groups = [self._group(group[0]) for group in self._grouped(share)]
            if data is None:
                lost = [
                    Harvest(failures=[(r.client, DIED) for r in g]) for g in self._grouped(share)
                ]
            else:
                lost = to_harvests(data, method=self._method)
            found |= dict(zip(groups, lost, strict=True))
        return [found[group] for group in sorted(found)]

    def learn(self, proxy: ProxySet) -> None:
        """Tell every worker's intake."""
        self._proxy = pack({"do": "learn"}, [to_bytes({"proxy": stored_proxy(proxy)})])
        for worker in self._workers:
            self._told(worker)

    def process_ids(self) -> list[int]:
        """Return the workers' process ids."""
        return [worker.process_id for worker in self._workers]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.close()

    def _group(self, request: Request) -> int:
        return group_of(request.client, n_clients=self.n_clients)

    def _grouped(self, requests: Sequence[Request]) -> list[list[Request]]:
        return grouped(requests, n_clients=self.n_clients)

    def _exchange(
        self, requests: Sequence[Request], facts: dict[str, Any]
    ) -> list[tuple[list[Request], bytes | None]]:
        """Return each worker's share of the requests and its answer, None from one that died."""
        shares: dict[int, list[Request]] = {}
        for group in self._grouped(requests):
            shares.setdefault(self._group(group[0]) % len(self._workers), []).extend(group)
        waiting: dict[Any, int] = {}
        answers: dict[int, bytes | None] = {}
        for n, share in shares.items():
            if self._workers[n].send(of_requests(share, **facts)):
                waiting[self._workers[n].pipe] = n
            else:
                answers[n] = None
        while waiting:
            for pipe in wait(list(waiting)):
                n = waiting.pop(pipe)
                answers[n] = self._workers[n].receive()
        for n in [n for n, answer in answers.items() if answer is None]:
            self._replace(n)
        return [(shares[n], answers[n]) for n in sorted(shares)]

    def _replace(self, n: int) -> None:
        self._workers[n].close()
        self._workers[n] = _Worker(self._serve)
        for client in range(self.n_clients):
            if group_of(client, n_clients=self.n_clients) % len(self._workers) == n:
                self.forgotten.add(client)
        if self._proxy is not None:
            self._told(self._workers[n])

    def _told(self, worker: _Worker) -> None:
        if self._proxy is not None and worker.send(self._proxy):
            worker.receive()

    def _serve(self, frame: Frame) -> bytes:
        """Answer one frame; runs in a worker."""
        header, blobs = frame
        if header["do"] == "learn":
            self._intake.learn(proxy_of(from_bytes(blobs[0])["proxy"]))
            return pack({}, [])
        requests = to_requests(header, blobs)
        if header["do"] == "ask":
            replies: list[Reply] = []
            for group in self._grouped(requests):
                replies += self._clients.handle(group)
            return of_replies(replies)
        harvests = [
            self._intake.take(group, self._clients.handle(group), keep=header["keep"])
            for group in self._grouped(requests)
        ]
        return of_harvests(harvests, method=self._method)


class _Worker:
    """A forked process at the other end of a pipe."""

    def __init__(self, serve: Callable[[Frame], bytes]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self.pipe, serve), daemon=True)
        self._process.start()
        theirs.close()
        self.process_id = self._process.pid or 0

    def send(self, data: bytes) -> bool:
        """Return whether the worker was there to be sent to."""
        try:
            self.pipe.send_bytes(data)
        except OSError:
            return False
        return True

    def receive(self) -> bytes | None:
        """Return the answer; None when the worker died."""
        try:
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            return None

    def close(self) -> None:
        """End the process. Its pipe alone would not do: workers forked later hold it open too."""
        self.send(_STOP)
        self.pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _work(pipe: Connection, parents: Connection, serve: Callable[[Frame], bytes]) -> None:
    """Answer until the parent is gone. Nothing of the parent's clean-up runs here."""
    parents.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while data := pipe.recv_bytes():
            pipe.send_bytes(serve(unpack(data)))
    os._exit(0)


_STOP = b""
