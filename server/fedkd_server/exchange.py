"""Asking clients and collecting what they answer, with every byte counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import RunStopped
from fedkd.results import Failure
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.records import count_bytes, read_reply, request_records


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
    """Speaks to clients by id over any Flower grid."""

    def __init__(self, grid: Grid, *, n_clients: int) -> None:
        self._grid = grid
        self._nodes = self._handshake(n_clients)

    def ask(self, requests: Sequence[Request]) -> Answers:
        """Send one request of one kind to each of some clients and wait for all of them."""
        answers = Answers()
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

    def _handshake(self, n_clients: int) -> dict[int, int]:
        """Return the node of every client id; RunStopped when they are not all there."""
        hello = request_records(Request(action=Action.HELLO, client=-1))
        nodes = sorted(self._grid.get_node_ids())
        messages = [Message(hello, node, Action.HELLO.value, group_id="0") for node in nodes]
        found: dict[int, int] = {}
        reasons: set[str] = set()
        for message in self._grid.send_and_receive(messages):
            if message.has_error():
                reasons.add(message.error.reason or f"error code {message.error.code}")
                continue
            try:
                client = read_reply(message.content).client
            except Exception as error:  # as above
                reasons.add(f"unreadable reply ({type(error).__name__})")
                continue
            if client in found:
                raise RunStopped(f"set-up: two nodes claim to be client {client}")
            found[client] = message.metadata.src_node_id
        missing = sorted(set(range(n_clients)) - set(found))
        if missing:
            why = f" ({', '.join(sorted(reasons))})" if reasons else ""
            raise RunStopped(
                f"set-up: {len(nodes)} nodes answered for {n_clients} clients; missing client ids "
                f"{missing[:10]}{why}; start as many clients as the scenario has"
            )
        return found
