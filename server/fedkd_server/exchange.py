"""Asking clients and collecting what they answer, with every byte counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import RunStopped
from fedkd.results import Failure, Loss
from fedkd.transport.batch import BatchGrid, Harvest, Intake, grouped
from fedkd.transport.messages import Action, Hello, Reply, Request
from fedkd.transport.reading import Limits, plain
from fedkd.transport.records import count_bytes, read_reply, request_records
from fedkd.transport.sizes import message_size
from fedkd.types import ProxySet
from fedkd_server.postbox import Postbox, Wait
from fedkd_server.roll_call import RollCall, set_up_limit


@dataclass(kw_only=True)
class Answers:
    """What came back from one exchange.

    Attributes:
        replies: by client id, ascending: the order every sum runs in.
        failures: clients whose reply was an error or unreadable, or that did not answer.
        bytes_down: serialised bytes by kind, server to clients.
        bytes_up: serialised bytes by kind, clients to server.
        refused: answers beside the one that counted.
        overdue: answers to requests of the round before, from real clients, that came in this one.
    """

    replies: dict[int, Reply] = field(default_factory=dict[int, Reply])
    failures: list[Failure] = field(default_factory=list[Failure])
    bytes_down: Counter[str] = field(default_factory=Counter[str])
    bytes_up: Counter[str] = field(default_factory=Counter[str])
    refused: list[Failure] = field(default_factory=list[Failure])
    overdue: list[tuple[Request, Reply]] = field(default_factory=list[tuple[Request, Reply]])


class Exchange:
    """Speaks to clients by id over any Flower grid.

    Attributes:
        simulated: the clients that let themselves be measured; none in a deployment.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        n_clients: int,
        greeting: Hello | None = None,
        wait: Wait = Wait(),  # noqa: B008  frozen
    ) -> None:
        self._grid, self._n_clients = grid, n_clients
        self._postbox = Postbox(grid=grid, wait=wait)
        self.simulated: frozenset[int] = frozenset()
        self._limits = Limits()
        self._nodes = self._handshake(n_clients, greeting)

    def ask(self, requests: Sequence[Request]) -> Answers:
        """Send one request of one kind to each of some clients and wait for the answers.

        In a round, real clients have until the deadline, and before round 1 as long as they are
        waited for at the start. One that has not answered by then counts as silent, and an older
        question than its newest is not worth its while any more.
        """
        answers = Answers()
        if isinstance(self._grid, BatchGrid):
            self._ask_batch(self._grid, requests, answers)
            return answers
        timed = bool(requests) and requests[0].round > 0 and not self.simulated
        limit = None if self.simulated or timed else set_up_limit()
        lifetime = self._postbox.wait.lifetime_s if timed else limit
        messages: list[Message] = []
        packed: dict[tuple[int, ...], tuple[RecordDict, dict[str, int]]] = {}
        for request in requests:
            shared = (request.incoming, request.proxy, request.roll, request.keys)
            same = tuple(id(part) for part in shared)
            if same not in packed:
                records = request_records(request)
                packed[same] = (records, count_bytes(records))
            records, sizes = packed[same]
            answers.bytes_down.update(sizes)
            node = self._nodes[request.client]
            kind, group = request.action.value, str(request.round)
            messages.append(Message(records, node, kind, ttl=lifetime, group_id=group))
        asked = {self._nodes[request.client]: request for request in requests}
        if not timed:
            heard = self._grid.send_and_receive(messages, timeout=limit)
            self._collect(heard, asked, answers)
            return answers
        heard, overdue = self._postbox.exchange(messages, requests)
        self._collect(heard, asked, answers)
        for request, message in overdue:
            reply = self._read(message, Counter())
            if not reply.error and request.action is Action.ROUND:
                answers.overdue.append((request, reply))
        return answers

    def fold(
        self, requests: Sequence[Request], intake: Intake, *, keep: bool
    ) -> tuple[list[Harvest], Counter[str]]:
        """Ask, and take in the uploads where they arise; also return the bytes sent down.

        Each group of clients is in one of the harvests (``transport.batch``).
        """
        if isinstance(self._grid, BatchGrid):
            return self._grid.fold(requests, keep=keep), _sizes(requests)
        answers = self.ask(requests)
        replies = dict(answers.replies)
        for failure in answers.failures:
            replies[failure.client] = Reply(client=failure.client, error=failure.reason)
        harvests = [
            intake.take(group, [replies[request.client] for request in group], keep=keep)
            for group in grouped(requests, n_clients=self._n_clients)
        ]
        if answers.overdue:
            late = sorted(answers.overdue, key=lambda pair: pair[0].client)
            harvests.append(intake.take_overdue([r for r, _ in late], [r for _, r in late]))
        harvests[0].refused += [(f.client, f.reason) for f in answers.refused]
        return harvests, answers.bytes_down

    def learn(self, proxy: ProxySet, intake: Intake) -> None:
        """Tell whoever takes in uploads what they are about."""
        if isinstance(self._grid, BatchGrid):
            self._grid.learn(proxy)
        intake.learn(proxy)
        self._limits = intake.limits()

    def save(self, folder: Path) -> None:
        """Let a simulation's clients write what they carry; others keep it themselves."""
        if isinstance(self._grid, BatchGrid):
            self._grid.save(folder)

    def forgotten(self) -> set[int]:
        """Return the clients that lost what they were sent since the last call."""
        if not isinstance(self._grid, BatchGrid):
            return set()
        lost, self._grid.forgotten = self._grid.forgotten, set()
        return lost

    def _ask_batch(self, grid: BatchGrid, requests: Sequence[Request], answers: Answers) -> None:
        answers.bytes_down = _sizes(requests)
        rounds = {request.client: request.round for request in requests}
        for reply in sorted(grid.ask(requests), key=lambda reply: reply.client):
            if reply.error:
                failure = Failure(
                    round=rounds[reply.client], client=reply.client, reason=reply.error
                )
                answers.failures.append(failure)
            else:
                answers.bytes_up.update(message_size(reply))
                answers.replies[reply.client] = reply

    def _collect(
        self, messages: Iterable[Message], asked: dict[int, Request], answers: Answers
    ) -> None:
        waiting, n_round = dict(asked), {node: request.round for node, request in asked.items()}
        good: dict[int, Reply] = {}
        for message in messages:
            node = message.metadata.src_node_id
            if node not in asked:
                continue
            client, other = asked[node].client, ""
            if message.metadata.group_id != str(n_round[node]):
                other = Loss.OTHER_ROUND.value
            elif node not in waiting:
                other = Loss.SECOND.value
            if other:
                answers.refused.append(Failure(n_round[node], client, other))
                continue
            del waiting[node]
            reply = self._read(message, answers.bytes_up)
            if reply.error:
                answers.failures.append(Failure(n_round[node], client, reply.error))
            else:
                good[client] = reply
        for request in waiting.values():
            lost = Failure(request.round, request.client, Loss.NO_ANSWER.value)
            answers.failures.append(lost)
        answers.replies = {client: good[client] for client in sorted(good)}
        answers.failures.sort(key=lambda failure: failure.client)

    def _read(self, message: Message, bytes_up: Counter[str]) -> Reply:
        """Return what a message says, or why it cannot be read as the reply's error."""
        if message.has_error():
            reason = plain(message.error.reason or "") or f"error code {message.error.code}"
            return Reply(client=-1, error=reason)
        try:
            bytes_up.update(count_bytes(message.content))
            return read_reply(message.content, self._limits)
        except Exception as error:  # whatever a client's bytes provoke is that client's failure
            return Reply(client=-1, error=f"unreadable reply ({type(error).__name__})")

    def _handshake(self, n_clients: int, greeting: Hello | None) -> dict[int, int]:
        """Return the node of every client id; RunStopped when they are not all there."""
        roll = RollCall(self._grid, greeting)
        missing = roll.hold(n_clients)
        self.simulated = frozenset(roll.simulated)
        if missing:
            raise RunStopped(
                f"set-up: {len(roll.nodes)} nodes answered for {n_clients} clients; missing client "
                f"ids {missing[:10]}{roll.why()}; start as many clients as the scenario has"
            )
        return roll.nodes


def _sizes(requests: Sequence[Request]) -> Counter[str]:
    """Return the bytes by kind that requests take, worked out once for those that are alike."""
    total: Counter[str] = Counter()
    alike: dict[tuple[int, ...], list[Request]] = {}
    for request in requests:
        same = (id(request.incoming), id(request.proxy), id(request.roll), id(request.keys))
        alike.setdefault(same, []).append(request)
    for some in alike.values():
        total.update({kind: size * len(some) for kind, size in message_size(some[0]).items()})
    return total
