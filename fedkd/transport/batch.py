"""Many requests at once: what a simulation's grid does beyond Flower's messages.

Clients are divided into a fixed number of groups of neighbors. A group's uploads are checked and
folded together, in client order, wherever the group lives; what comes back is one
:class:`Harvest` a group. Harvests are added in the order of groups, so that a sum has the same bits
in one process, in many, and over any Flower grid.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedkd.transport.messages import Action, ErrorCode, Reply, Request
from fedkd.transport.records import read_request, reply_records
from fedkd.types import ProxySet, Upload

_run_ids = itertools.count(1)


def new_run() -> Run:
    """Return the identity of a run in this process."""
    return Run.create_empty(run_id=next(_run_ids))


GROUPS = 16
"""Into how many groups clients are divided; no more workers than these have anything to do."""


def group_of(client: int, *, n_clients: int) -> int:
    """Return the group that a client belongs to, whoever else takes part."""
    return client * min(GROUPS, n_clients) // n_clients


def grouped(requests: Sequence[Request], *, n_clients: int) -> list[list[Request]]:
    """Return the requests by group, groups and clients ascending."""
    groups: dict[int, list[Request]] = {}
    for request in sorted(requests, key=lambda r: r.client):
        groups.setdefault(group_of(request.client, n_clients=n_clients), []).append(request)
    return [groups[n] for n in sorted(groups)]


@dataclass(kw_only=True)
class Harvest:
    """What some clients' answers to a round came to.

    Attributes:
        answered: clients whose reply was no error, sound or not.
        failures: client and reason, of those that gave nothing usable.
        state: the sound uploads, folded by the method; None without any, or when they are kept.
        uploads: the sound uploads themselves, where somebody has to see them.
        tallies: sums that measurements of the filters are made from.
        bytes_up: serialised bytes by kind.
    """

    answered: list[int] = field(default_factory=list[int])
    failures: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    state: Any = None
    uploads: dict[int, Upload] = field(default_factory=dict[int, Upload])
    tallies: Counter[str] = field(default_factory=Counter[str])
    bytes_up: Counter[str] = field(default_factory=Counter[str])


class Clients(Protocol):
    """The client side of a simulation."""

    def handle(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests of one action and one round, in their order."""
        ...


class Intake(Protocol):
    """What the server does to uploads, wherever they arise."""

    def learn(self, proxy: ProxySet) -> None:
        """Take note of the proxy set that uploads are about."""
        ...

    def take(self, requests: Sequence[Request], replies: Sequence[Reply], *, keep: bool) -> Harvest:
        """Check one group's replies, ascending by client, and fold or ``keep`` the uploads."""
        ...


class BatchGrid(Grid):
    """A Flower grid whose clients can also be asked, and their uploads folded, many at a time.

    Nodes 1 .. n hold clients 0 .. n - 1. Messages work as on any grid.

    Attributes:
        forgotten: clients that lost what they had been sent (their worker died and was replaced);
            whoever reads it clears it.
    """

    def __init__(self, *, n_clients: int) -> None:
        self.n_clients, self._run = n_clients, new_run()
        self.forgotten: set[int] = set()
        self._replies: dict[str, Message] = {}

    @abstractmethod
    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the answers, in the order of requests."""

    @abstractmethod
    def fold(self, requests: Sequence[Request], *, keep: bool) -> list[Harvest]:
        """Return one harvest for each group of the requests, in their order."""

    @abstractmethod
    def learn(self, proxy: ProxySet) -> None:
        """Tell whoever takes in uploads about the proxy set."""

    def close(self) -> None:
        """End what was started for the clients."""

    def set_run(self, run: Run) -> None:
        """Take a run's identity."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid belongs to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message (Flower deprecates this in favor of the constructor)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Sequence[int]:
        """Return the ids of all nodes."""
        return range(1, self.n_clients + 1)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Handle the messages at once and keep the replies."""
        ids: list[str] = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            ids.append(message.metadata.message_id)
            self._replies[message.metadata.message_id] = self._deliver(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the kept replies."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Handle the messages; ``timeout`` has no meaning here, every message is answered."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message:
        client = message.metadata.dst_node_id - 1
        action = Action(message.metadata.message_type)
        (reply,) = self.ask([read_request(message.content, action=action, client=client)])
        if reply.error:
            return Message(Error(code=ErrorCode.RAISED, reason=reply.error), reply_to=message)
        return Message(reply_records(reply), reply_to=message)


class LocalGrid(BatchGrid):
    """All clients in this process."""

    def __init__(self, clients: Clients, intake: Intake, *, n_clients: int) -> None:
        super().__init__(n_clients=n_clients)
        self._clients, self._intake = clients, intake

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Hand over group by group."""
        replies: dict[int, Reply] = {}
        for group in grouped(requests, n_clients=self.n_clients):
            replies |= {reply.client: reply for reply in self._clients.handle(group)}
        return [replies[request.client] for request in requests]

    def fold(self, requests: Sequence[Request], *, keep: bool) -> list[Harvest]:
        """Hand over group by group, and take in each before the next begins."""
        return [
            self._intake.take(group, self._clients.handle(group), keep=keep)
            for group in grouped(requests, n_clients=self.n_clients)
        ]

    def learn(self, proxy: ProxySet) -> None:
        """Tell the intake."""
        self._intake.learn(proxy)
