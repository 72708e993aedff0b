"""A Flower grid to real nodes, read so that one node's odd answer costs nobody else's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, wait

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedkd.errors import RunStopped
from fedkd.transport.messages import ErrorCode

BETWEEN_S = 1.0
"""How long between two looks for answers."""
QUICK_S = 0.5
"""How long one answer is waited for before the next is looked at."""


class CarefulGrid(Grid):
    """Pulls the answers one by one; what Flower's reader raises on one is that node's error.

    Flower's own grid pulls them together: an object that it cannot read raises out of the call, and
    the answers that were read before it are gone from the SuperLink. It also waits, for minutes or
    for ever, for the objects of an answer whose client announced it and then sent no more; here
    that goes on in the background, and is an answer like any other if it comes to an end.

    Args:
        inner: Flower's grid. What it raises about the SuperLink itself, or about the run, is passed
            on.
    """

    def __init__(self, inner: Grid) -> None:
        self._inner = inner
        self._asked: dict[str, Message] = {}
        self._pulls: dict[str, Future[list[Message]]] = {}

    def set_run(self, run: Run) -> None:
        """Take a run's identity."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """The run this grid belongs to."""
        return self._inner.run

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

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are connected."""
        return self._inner.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes that are connected, with their registered names."""
        return self._inner.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; one that could not be sent has an empty id."""
        messages, now = list(messages), time.time()
        self._asked = {
            identity: asked
            for identity, asked in self._asked.items()
            if asked.metadata.created_at + asked.metadata.ttl > now
        }
        self._pulls = {i: pull for i, pull in self._pulls.items() if i in self._asked}
        ids = [identity or "" for identity in self._inner.push_messages(messages)]
        ids += [""] * (len(messages) - len(ids))  # too large for the SuperLink: Flower returns none
        for identity, message in zip(ids, messages, strict=True):
            if identity:
                self._asked[identity] = _without_content(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the answers that are there."""
        answers: list[Message] = []
        for identity in message_ids:
            if not identity:
                continue
            if identity not in self._pulls:
                self._pulls[identity] = self._begin(identity)
                wait([self._pulls[identity]], timeout=QUICK_S)
            if self._pulls[identity].done():
                answers += self._outcome(identity)
        return answers

    def _begin(self, identity: str) -> Future[list[Message]]:
        """Pull one answer in a thread that does not keep the process alive."""
        pull: Future[list[Message]] = Future()

        def go() -> None:
            try:
                pull.set_result(list(self._inner.pull_messages([identity])))
            except BaseException as error:
                pull.set_exception(error)

        threading.Thread(target=go, daemon=True).start()
        return pull

    def _outcome(self, identity: str) -> list[Message]:
        """Return what a pull that is done came to, at most one message."""
        asked = self._asked.get(identity)
        try:
            found = self._pulls.pop(identity).result()
        except (httpx.HTTPError, OSError, RunStopped):
            raise
        except Exception as error:  # whatever a client's bytes provoke is that client's failure
            failed = Error(ErrorCode.RAISED, f"unreadable reply ({type(error).__name__})")
            found = [] if asked is None else [Message(failed, reply_to=asked)]
        if found:
            self._asked.pop(identity, None)
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return the answers that came in time.

        Args:
            messages: one for each node.
            timeout: seconds; None waits for all, at most as long as Flower keeps messages.
        """
        waiting = {identity for identity in self.push_messages(messages) if identity}
        limit, answers = None if timeout is None else time.monotonic() + timeout, list[Message]()
        while waiting:
            found = self.pull_messages(sorted(waiting))
            answers += found
            waiting -= {message.metadata.reply_to_message_id for message in found}
            left = BETWEEN_S if limit is None else limit - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(BETWEEN_S, left) if waiting else 0.0)
        return answers


def _without_content(message: Message) -> Message:
    """Return what a reply to a message needs of it."""
    light = Message(RecordDict(), message.metadata.dst_node_id, message.metadata.message_type)
    vars(light.metadata).update(vars(message.metadata))
    return light
