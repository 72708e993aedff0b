"""Many requests at once: what a simulation's grid does beyond Flower's messages.

Clients are divided into a fixed number of groups of neighbors. A group's uploads are checked and
folded together, in client order, wherever the group lives. The groups' sums are added in pairs, as
in a tree (:func:`climb`), so that the whole has the same bits in one process, in many, and over any
Flower grid, while a process with many groups hands over few sums: those of whole branches.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flwr.app import Error, Message

from fedkd.transport.grid import SimulationGrid
from fedkd.transport.messages import Action, ErrorCode, Reply, Request
from fedkd.transport.reading import Limits
from fedkd.transport.records import read_request, reply_records
from fedkd.types import ProxySet, Upload

GROUPS = 16
"""Into how many groups clients are divided; no more workers than these have anything to do."""


def groups_of(n_clients: int) -> range:
    """Return the groups of a run with so many clients."""
    return range(min(GROUPS, n_clients))


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


def share_of(worker: int, *, n_workers: int, n_clients: int) -> range:
    """Return the groups that a worker answers for: neighbors, about as many as any other does."""
    n_groups = len(groups_of(n_clients))
    return range(worker * n_groups // n_workers, (worker + 1) * n_groups // n_workers)


def climb(
    states: dict[Node, State],
    merge: Callable[[State, State], State],
    *,
    within: range,
    n_clients: int,
) -> dict[Node, State]:
    """Add states up the tree, up to the branches that lie ``within`` some groups altogether.

    Args:
        states: by node; groups from which nothing came have none.
        merge: adds two states of neighboring branches.
        within: groups whose states are all there.
        n_clients: of the run.
    """
    at, n_groups, level = dict(states), len(groups_of(n_clients)), 0
    while 1 << level < n_groups:
        for number in sorted({number // 2 for height, number in at if height == level}):
            first = number << (level + 1)
            last = min((number + 1) << (level + 1), n_groups) - 1
            if first not in within or last not in within:
                continue
            pair = [at.pop(node) for side in (0, 1) if (node := (level, 2 * number + side)) in at]
            at[level + 1, number] = pair[0] if len(pair) == 1 else merge(*pair)
        level += 1
    return at


def snapshot(folder: Path, group: int) -> Path:
    """Return the file of a checkpoint that holds what a group's clients carry."""
    return folder / f"clients-{group:02d}.safetensors"


Node = tuple[int, int]
"""A branch of the tree of groups: its height, and its number among those as high. Branch
``(h, n)`` holds the groups ``n * 2^h`` to ``(n + 1) * 2^h - 1``."""
State = TypeVar("State")


@dataclass(kw_only=True)
class Harvest:
    """What some clients' answers to a round came to.

    Attributes:
        answered: clients whose reply was no error, sound or not.
        failures: client and reason, of those that gave nothing usable.
        states: the sound uploads, folded by the method, by branch; none where they are kept.
        uploads: the sound uploads themselves, where somebody has to see them.
        tallies: sums that measurements of the filters are made from.
        bytes_up: serialised bytes by kind.
        refused: client and reason, of deliveries beside the one that counted.
        late: sound uploads that came after the deadline, to stand in next round.
        stand_ins: sound uploads of the round before, which came in this one.
        waited: when the last delivery that counted came, in virtual seconds.
        spent: virtual seconds and joules of each client's device; none without devices.
    """

    answered: list[int] = field(default_factory=list[int])
    failures: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    states: dict[Node, Any] = field(default_factory=dict[Node, Any])
    uploads: dict[int, Upload] = field(default_factory=dict[int, Upload])
    tallies: Counter[str] = field(default_factory=Counter[str])
    bytes_up: Counter[str] = field(default_factory=Counter[str])
    refused: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    late: dict[int, Upload] = field(default_factory=dict[int, Upload])
    stand_ins: dict[int, Upload] = field(default_factory=dict[int, Upload])
    waited: float = 0.0
    spent: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])

    @staticmethod
    def of(parts: Sequence[Harvest]) -> Harvest:
        """Return parts as one; their branches stay apart."""
        whole = Harvest()
        for part in parts:
            whole.answered += part.answered
            whole.failures += part.failures
            whole.refused += part.refused
            whole.states |= part.states
            whole.uploads |= part.uploads
            whole.tallies.update(part.tallies)
            whole.bytes_up.update(part.bytes_up)
            whole.late |= part.late
            whole.stand_ins |= part.stand_ins
            whole.waited = max(whole.waited, part.waited)
            whole.spent |= part.spent
        return whole


class Clients(Protocol):
    """The client side of a simulation.

    Attributes:
        at_once: how many clients it is best asked about at a time; more are as welcome.
    """

    at_once: int

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
        """Return what the answers came to, in parts that hold each group's once."""

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


def harvest(
    clients: Clients, intake: Intake, requests: Sequence[Request], *, keep: bool, n_clients: int
) -> Harvest:
    """Let clients of this process answer a round, and take in what they say group by group."""
    parts: list[Harvest] = []
    for groups in _portions(grouped(requests, n_clients=n_clients), most=clients.at_once):
        replies = iter(clients.handle([request for group in groups for request in group]))
        parts += [intake.take(g, list(islice(replies, len(g))), keep=keep) for g in groups]
    return Harvest.of(parts)


def _portions(groups: Sequence[list[Request]], *, most: int) -> Iterator[list[list[Request]]]:
    """Yield groups that are asked at once: with no more than ``most`` clients, or one alone."""
    portion: list[list[Request]] = []
    for group in groups:
        if portion and sum(map(len, portion)) + len(group) > most:
            yield portion
            portion = []
        portion.append(group)
    if portion:
        yield portion


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
        """Hand over some groups at a time, and take in their answers before the next begin."""
        n_clients = self.n_clients
        return [harvest(self._clients, self._intake, requests, keep=keep, n_clients=n_clients)]

    def learn(self, proxy: ProxySet) -> None:
        """Tell the intake."""
        self._intake.learn(proxy)

    def save(self, folder: Path) -> None:
        """Write group by group."""
        for group in groups_of(self.n_clients):
            members = members_of(group, n_clients=self.n_clients)
            self._clients.save(snapshot(folder, group), members)
