"""Clients of a simulation behind workers that are spoken to in frames of bytes.

What a worker is, a forked process or an actor on another machine, its grid says; who answers
which client, what happens to the answers and how a worker that died is replaced, is the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from fedkd.errors import RunStopped
from fedkd.methods.base import Method
from fedkd.transport.batch import (
    BatchGrid,
    Clients,
    Harvest,
    Intake,
    climb,
    group_of,
    grouped,
    harvest,
    members_of,
    share_of,
    snapshot,
)
from fedkd.transport.frames import (
    Frame,
    of_harvest,
    of_replies,
    of_requests,
    to_harvest,
    to_replies,
    to_requests,
)
from fedkd.transport.messages import Reply, Request
from fedkd.transport.stored import from_bytes, proxy_of, stored_proxy, to_bytes
from fedkd.types import ProxySet

DIED = "WorkerDied"
"""Reason of the failures of clients whose process ended under them."""


class Worker(Protocol):
    """Somewhere else, where some groups of clients are at home."""

    def send(self, frame: Frame) -> bool:
        """Return whether the worker was there to be sent to."""
        ...

    def receive(self) -> Frame | None:
        """Return the answer to what was sent, good until the next is; None from one that died."""
        ...

    def close(self) -> None:
        """End the worker, dead or alive."""
        ...


W = TypeVar("W", bound=Worker)


class FrameGrid(BatchGrid, Generic[W]):
    """Groups of clients behind workers, each with a few neighboring groups.

    Args:
        method: knows how folded uploads become bytes.
        n_clients: clients of the run.
    """

    def __init__(self, *, method: Method, n_clients: int) -> None:
        super().__init__(n_clients=n_clients)
        self._method = method
        self._proxy: Frame | None = None
        self._workers: list[W] = []

    @abstractmethod
    def _start(self, n: int) -> W:
        """Return worker ``n``: at first, or in the place of one that died."""

    @abstractmethod
    def _ready(self, waiting: Sequence[W]) -> Sequence[W]:
        """Return workers that answered or died, at least one; wait for it."""

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
        return [
            Harvest(failures=[(request.client, DIED) for request in share])
            if data is None
            else to_harvest(data, method=self._method)
            for share, data in self._exchange(requests, {"do": "fold", "keep": keep})
        ]

    def learn(self, proxy: ProxySet) -> None:
        """Tell every worker's intake."""
        self._proxy = ({"do": "learn"}, [to_bytes({"proxy": stored_proxy(proxy)})])
        told = [worker for worker in self._workers if worker.send(self._proxy)]
        for worker in told:
            worker.receive()

    def save(self, folder: Path) -> None:
        """Let every worker write its groups; one that died is replaced, and writes what it finds.

        Raises:
            RunStopped: it died again.
        """
        frames: dict[int, Frame] = {
            n: ({"do": "save", "folder": str(folder), "groups": list(self._groups(n))}, [])
            for n in range(len(self._workers))
        }
        dead = [n for n, answer in self._answers(frames).items() if answer is None]
        for n in dead:
            self._replace(n)
        again = self._answers({n: frames[n] for n in dead})
        if any(answer is None for answer in again.values()):
            raise RunStopped(f"a worker died twice while it wrote a checkpoint: {str(folder)!r}")

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.close()

    def _groups(self, n: int) -> range:
        """Return the groups of worker ``n``."""
        return share_of(n, n_workers=len(self._workers), n_clients=self.n_clients)

    def _exchange(
        self, requests: Sequence[Request], facts: Mapping[str, Any]
    ) -> list[tuple[list[Request], Frame | None]]:
        """Return each worker's share of the requests and its answer, None from one that died."""
        owner = {g: n for n in range(len(self._workers)) for g in self._groups(n)}
        shares: dict[int, list[Request]] = {}
        for request in sorted(requests, key=lambda request: request.client):
            group = group_of(request.client, n_clients=self.n_clients)
            shares.setdefault(owner[group], []).append(request)
        frames = of_requests(shares, facts)
        for n, (header, _) in frames.items():
            header["within"] = [self._groups(n).start, self._groups(n).stop]
        answers = self._answers(frames)
        for n in [n for n, answer in answers.items() if answer is None]:
            self._replace(n)
        return [(shares[n], answers[n]) for n in sorted(shares)]

    def _answers(self, frames: Mapping[int, Frame]) -> dict[int, Frame | None]:
        """Return what workers answer, in the order in which they do."""
        answers: dict[int, Frame | None] = dict.fromkeys(frames)
        waiting = [n for n, frame in frames.items() if self._workers[n].send(frame)]
        while waiting:
            ready = self._ready([self._workers[n] for n in waiting])
            for n in [n for n in waiting if self._workers[n] in ready]:
                waiting.remove(n)
                answers[n] = self._workers[n].receive()
        return answers

    def _replace(self, n: int) -> None:
        self._workers[n].close()
        self._workers[n] = self._start(n)
        for group in self._groups(n):
            self.forgotten.update(members_of(group, n_clients=self.n_clients))
        if self._proxy is not None and self._workers[n].send(self._proxy):
            self._workers[n].receive()


def responder(clients: Clients, intake: Intake, *, method: Method, n_clients: int) -> Respond:
    """Return what answers frames on a worker's side, with the clients and the intake it has."""

    def split(requests: Sequence[Request]) -> list[list[Request]]:
        return grouped(requests, n_clients=n_clients)

    def respond(frame: Frame) -> Frame:
        header, blobs = frame
        if header["do"] == "learn":
            intake.learn(proxy_of(from_bytes(bytes(blobs[0]))["proxy"]))
            return {}, []
        if header["do"] == "save":
            for group in header["groups"]:
                members = members_of(group, n_clients=n_clients)
                clients.save(snapshot(Path(header["folder"]), group), members)
            return {}, []
        if header["do"] == "restore":
            proxy = proxy_of(from_bytes(bytes(blobs[0]))["proxy"]) if blobs else None
            for path in header["paths"]:
                clients.restore(Path(path), proxy)
            return {}, []
        requests = to_requests(header, blobs)
        if header["do"] == "ask":
            return of_replies([r for group in split(requests) for r in clients.handle(group)])
        keep, within = bool(header["keep"]), range(*header["within"])
        found = harvest(clients, intake, requests, keep=keep, n_clients=n_clients)
        found.states = climb(found.states, method.merge, within=within, n_clients=n_clients)
        return of_harvest(found, method=method)

    return respond


Respond = Callable[[Frame], Frame]
"""Answers a frame, whose byte strings may be views of memory that is used again afterwards."""
