"""A Flower grid in this process: the real apps, no Ray, no server, no sockets.

Messages are passed by reference, as Flower builds them; bytes are counted on what would be
serialised, by the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedkd.transport.batch import new_run
from fedkd.transport.messages import ErrorCode

SCENARIO_KEY = "scenario-json"
"""The one key of Flower's run config: the resolved scenario as JSON."""


class InProcessGrid(Grid):
    """Nodes 1 .. n hold clients 0 .. n - 1; one message is handled after the other."""

    def __init__(self, app: ClientApp, *, n_clients: int, scenario_json: str) -> None:
        self._app = app
        self._run = new_run()
        self._replies: dict[str, Message] = {}
        self._contexts = {
            client + 1: Context(
                run_id=self._run.run_id,
                node_id=client + 1,
                node_config={"partition-id": client, "num-partitions": n_clients},
                state=RecordDict(),
                run_config={SCENARIO_KEY: scenario_json},
            )
            for client in range(n_clients)
        }

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
        return list(self._contexts)

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
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # as on a real node, a crash of the app is a failed reply
            failed = Error(code=ErrorCode.RAISED, reason=type(error).__name__)
            return Message(failed, reply_to=message)


def run_in_process(
    server: ServerApp, client: ClientApp, *, n_clients: int, scenario_json: str
) -> None:
    """Run two Flower apps against each other in this process, to the end of the server app."""
    grid = InProcessGrid(client, n_clients=n_clients, scenario_json=scenario_json)
    run_on(grid, server, scenario_json=scenario_json)


def run_on(grid: Grid, server: ServerApp, *, scenario_json: str) -> None:
    """Run a server app over a grid of this process, to its end."""
    TaskIdentity.task_id = TaskIdentity.run_id = grid.run.run_id
    TaskIdentity.node_id = 0
    context = Context(
        run_id=grid.run.run_id,
        node_id=0,
        node_config={},
        state=RecordDict(),
        run_config={SCENARIO_KEY: scenario_json},
    )
    server(grid, context)
