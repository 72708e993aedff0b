"""What every grid of a simulation shares: Flower's methods, over clients that answer at once."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from uuid import uuid4

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_run_ids = itertools.count(1)


class SimulationGrid(Grid):
    """A Flower grid whose nodes 1 .. n hold clients 0 .. n - 1 of this process's simulation."""

    def __init__(self, *, n_clients: int) -> None:
        self.n_clients = n_clients
        self._run = Run.create_empty(run_id=next(_run_ids))
        self._replies: dict[str, Message] = {}

    @abstractmethod
    def _deliver(self, message: Message) -> Message:
        """Return a node's reply; what goes wrong there is an error message."""

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
