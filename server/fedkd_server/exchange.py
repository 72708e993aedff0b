"""Asking clients and collecting what they answer, with every byte counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import RunStopped
from fedkd.results import Failure
from fedkd.transport.batch import BatchGrid, Harvest, Intake, grouped
from fedkd.transport.messages import Hello, Reply, Request
from fedkd.transport.records import count_bytes, read_reply, request_records
from fedkd.transport.sizes import message_size
from fedkd.types import ProxySet
from fedkd_server.roll_call import RollCall


@dataclass(kw_only=True)
class Answers:
    """What came back from one exchange.

    Attributes:
        replies: by client id, ascending: the order every sum runs in.
        failures: clients whose reply was an error or unreadable, or that did not answer.
        bytes_down: serialised bytes by kind, server to clients.
        bytes_up: serialised bytes by kind, clients to server.
    """

    replies: dict[int, Reply] = field(default_factory=dict[int, Reply])
    failures: list[Failure] = field(default_factory=list[Failure])
    bytes_down: Counter[str] = field(default_factory=Counter[str])
    bytes_up: Counter[str] = field(default_factory=Counter[str])


class Exchange:
    """Speaks to clients by id over any Flower grid.

    Attributes:
        simulated: the clients that let themselves be measured; none in a deployment.
    """

    def __init__(self, grid: Grid, *, n_clients: int, greeting: Hello | None = None) -> None:
        self._grid, self._n_clients = grid, n_clients
        self.simulated: frozenset[int] = frozenset()
        self._nodes = self._handshake(n_clients, greeting)

    def ask(self, requests: Sequence[Request]) -> Answers:
        """Send one request of one kind to each of some clients and wait for all of them."""
        answers = Answers()
        if isinstance(self._grid, BatchGrid):
            self._ask_batch(self._grid, requests, answers)
            return answers
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
            messages.append(
                Message(records, node, request.action.value, group_id=str(request.round))
            )
        asked = {self._nodes[request.client]: request for request in requests}
        self._collect(self._grid.send_and_receive(messages), asked, answers)
        return answers

    def fold(
        self, requests: Sequence[Request], intake: Intake, *, keep: bool
    ) -> tuple[list[Harvest], Counter[str]]:
        """Ask, and take in the uploads where they arise; also return the bytes sent down.

        There is one harvest for each group of clients, in order (``transport.batch``).
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
        return harvests, answers.bytes_down

    def learn(self, proxy: ProxySet, intake: Intake) -> None:
        """Tell whoever takes in uploads what they are about."""
        if isinstance(self._grid, BatchGrid):
            self._grid.learn(proxy)
        intake.learn(proxy)

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
        waiting = dict(asked)
        good: dict[int, Reply] = {}
        for message in messages:
            request = waiting.pop(message.metadata.src_node_id, None)
            if request is None:
                continue
            reason = ""
            if message.has_error():
                reason = message.error.reason or f"error code {message.error.code}"
            else:
                answers.bytes_up.update(count_bytes(message.content))
                try:
                    good[request.client] = read_reply(message.content)
                except (
                    Exception
                ) as error:  # whatever a client's bytes provoke is that client's failure
                    reason = f"unreadable reply ({type(error).__name__})"
            if reason:
                answers.failures.append(
                    Failure(round=request.round, client=request.client, reason=reason)
                )
        for request in waiting.values():
            answers.failures.append(
                Failure(round=request.round, client=request.client, reason="no answer")
            )
        answers.replies = {client: good[client] for client in sorted(good)}
        answers.failures.sort(key=lambda failure: failure.client)

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
    known: dict[tuple[int, ...], dict[str, int]] = {}
    for request in requests:
        shared = (request.incoming, request.proxy, request.roll, request.keys)
        same = tuple(id(part) for part in shared)
        if same not in known:
            known[same] = message_size(request)
        total.update(known[same])
    return total
