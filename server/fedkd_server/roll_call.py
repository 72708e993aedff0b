"""Who is there at the start of a run, which client each of them is, and who may not take part."""

from __future__ import annotations

import logging
import os
import re
import time

from flwr.app import Message
from flwr.serverapp import Grid

from fedkd.errors import RunStopped
from fedkd.transport.hello import OtherScenario, OtherVersion, agree
from fedkd.transport.messages import Action, Hello, Request
from fedkd.transport.reading import plain
from fedkd.transport.records import read_reply, request_records

logger = logging.getLogger("flwr")
_NAME = re.compile(r"client-(\d+)")
_BETWEEN_S, _ANSWER_S = 2.0, 180.0


def patience() -> float:
    """Return how many seconds clients that are not there yet are given: ``$FEDKD_WAIT_S`` or 0."""
    return float(os.environ.get("FEDKD_WAIT_S", "0"))


def set_up_limit() -> float:
    """Return how many seconds a real client may take over a question before round 1."""
    return patience() + _ANSWER_S


class RollCall:
    """Asks every node for its client id, again and again until all are there or time is up.

    A deployed node has a key that the operator registered under the name ``client-N``: it is
    client N, and what it says itself is only checked. Nodes of a simulation have no names, and say
    who they are.

    Attributes:
        nodes: Flower's node id of every client that answered, by client id.
        simulated: clients that let themselves be measured; a client on a device does not.
        reasons: why nodes were turned away.
    """

    def __init__(self, grid: Grid, greeting: Hello | None) -> None:
        self._grid, self._greeting = grid, greeting
        self.nodes: dict[int, int] = {}
        self.simulated: set[int] = set()
        self.reasons: dict[int, str] = {}

    def hold(self, n_clients: int) -> list[int]:
        """Return the ids of the clients that are missing, after :func:`patience` at the latest."""
        limit, told = time.monotonic() + patience(), ""
        while True:
            self._ask(timeout=set_up_limit() if patience() else None)
            missing = sorted(set(range(n_clients)) - set(self.nodes))
            if not missing or time.monotonic() >= limit:
                return missing
            waiting = f"waiting for clients {missing[:10]}{self.why()}"
            if waiting != told:
                logger.info(waiting)
                told = waiting
            time.sleep(_BETWEEN_S)

    def why(self) -> str:
        """Return the reasons in brackets, or nothing."""
        return f" ({', '.join(sorted(set(self.reasons.values())))})" if self.reasons else ""

    def _ask(self, *, timeout: float | None) -> None:
        """Ask the nodes that are not known yet; one that was refused may have been put right."""
        names = {node.node_id: node.name for node in self._grid.get_nodes()}
        named = any(_NAME.fullmatch(name) for name in names.values())
        hello = request_records(Request(action=Action.HELLO, client=-1, hello=self._greeting))
        questions = [
            Message(hello, node, Action.HELLO.value, group_id="0")
            for node in sorted(set(names) - set(self.nodes.values()))
        ]
        if not questions:
            return
        self.reasons.clear()
        for message in self._grid.send_and_receive(questions, timeout=timeout):
            node = message.metadata.src_node_id  # Flower's own if it speaks for one that went away
            try:
                self._hear(message, name=names.get(node, "") if named else None)
            except _Refused as error:
                self.reasons[node] = str(error)

    def _hear(self, message: Message, *, name: str | None) -> None:
        if message.has_error():
            raise _Refused(plain(message.error.reason or "") or f"error code {message.error.code}")
        try:
            reply = read_reply(message.content)
        except Exception as error:  # whatever a client's bytes provoke is that client's failure
            raise _Refused(f"unreadable reply ({type(error).__name__})") from None
        client = reply.client
        if name is not None and name != f"client-{client}":
            raise _Refused(f"the key registered as {name!r} says it is client {client}")
        if client in self.nodes:
            raise RunStopped(f"set-up: two nodes claim to be client {client}")
        if self._greeting is not None:
            try:
                agree(self._greeting, reply.hello)
            except (OtherVersion, OtherScenario) as error:
                raise _Refused(f"client {client}: {plain(str(error))}") from None
        self.nodes[client] = message.metadata.src_node_id
        if reply.hello is not None and reply.hello.simulated:
            self.simulated.add(client)


class _Refused(Exception):
    """A node that may not take part, and why."""
