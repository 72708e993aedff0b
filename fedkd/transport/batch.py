"""Many requests at once: what a simulation's grid does beyond Flower's messages.

Clients are divided into a fixed number of groups of neighbors. A group's uploads are checked and
folded together, in client order, wherever the group lives; what comes back is one
:class:`Harvest` a group. Harvests are added in the order of groups, so that a sum has the same bits
in one process, in many, and over any Flower grid.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Error, Message

from fedkd.transport.grid import SimulationGrid
from fedkd.transport.messages import Action, ErrorCode, Reply, Request
from fedkd.transport.reading import Limits
from fedkd.transport.records import read_request, reply_records
from fedkd.types import ProxySet, Upload

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


def members_of(group: int, *, n_clients: int) -> list[int]:
    """Return the clients of a group."""
    return [c for c in range(n_clients) if group_of(c, n_clients=n_clients) == group]


def snapshot(folder: Path, group: int) -> Path:
    """Return the file of a checkpoint that holds what a group's clients carry."""
    return folder / f"clients-{group:02d}.safetensors"


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
        refused: client and reason, of deliveries beside the one that counted.
        late: sound uploads that came after the deadline, to stand in next round.
        stand_ins: sound uploads of the round before, which came in this one.
        arrivals: when the delivery that counted came, in virtual seconds, by client.
        spent: virtual seconds and joules of each client's device; none without devices.
    """

    answered: list[int] = field(default_factory=list[int])
    failures: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    state: Any = None
    uploads: dict[int, Upload] = field(default_factory=dict[int, Upload])
    tallies: Counter[str] = field(default_factory=Counter[str])
    bytes_up: Counter[str] = field(default_factory=Counter[str])
    refused: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    late: dict[int, Upload] = field(default_factory=dict[int, Upload])
    stand_ins: dict[int, Upload] = field(default_factory=dict[int, Upload])
    arrivals: dict[int, float] = field(default_factory=dict[int, float])
    spent: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])


class Clients(Protocol):
    """The client side of a simulation."""

    def handle(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer requests of one action and one round, in their order."""
        ...

    def save(self, path: Path, clients: Sequence[int]) -> None:
        """Write what those of the clients carry that have done anything yet."""
        ...

    def restore(self, path: Path, proxy: ProxySet | None) -> None:
        """Give clients back what :meth:`save` wrote, before any is asked."""
        ...


class Intake(Protocol):
    """What the server does to uploads, wherever they arise."""

    def learn(self, proxy: ProxySet) -> None:
        """Take note of the proxy set that uploads are about."""
        ...

    def limits(self) -> Limits:
        """Return the most that an upload may hold, as far as it is known by now."""
        ...

    def take(self, requests: Sequence[Request], replies: Sequence[Reply], *, keep: bool) -> Harvest:
        """Check one group's replies, ascending by client, and fold or ``keep`` the uploads."""
        ...

    def take_overdue(self, requests: Sequence[Request], replies: Sequence[Reply]) -> Harvest:
        """Check answers to requests of the round before that came in this one."""
        ...


class BatchGrid(SimulationGrid):
    """A grid whose clients can also be asked, and their uploads folded, many at a time.

    Attributes:
        forgotten: clients that lost what they had been sent (their worker died and was replaced);
            whoever reads it clears it.
    """

    def __init__(self, *, n_clients: int) -> None:
        super().__init__(n_clients=n_clients)
        self.forgotten: set[int] = set()

    @abstractmethod
    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the answers, in the order of requests."""

    @abstractmethod
    def fold(self, requests: Sequence[Request], *, keep: bool) -> list[Harvest]:
        """Return one harvest for each group of the requests, in their order."""

    @abstractmethod
    def learn(self, proxy: ProxySet) -> None:
        """Tell whoever takes in uploads about the proxy set."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what all clients carry, one :func:`snapshot` a group."""

    def close(self) -> None:
        """End what was started for the clients."""

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

    def save(self, folder: Path) -> None:
        """Write group by group."""
        for group in range(min(GROUPS, self.n_clients)):
            members = members_of(group, n_clients=self.n_clients)
            self._clients.save(snapshot(folder, group), members)
