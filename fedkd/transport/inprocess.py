"""A Flower grid in this process: the real apps, no Ray, no server, no sockets.

Messages are passed by reference, as Flower builds them; bytes are counted on what would be
serialised, by the server.
"""

from __future__ import annotations

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fedkd.transport.grid import SimulationGrid
from fedkd.transport.messages import ErrorCode

SCENARIO_KEY, RUN_KEY = "scenario-json", "fedkd-run"
"""The one key of Flower's run config: the resolved scenario as JSON."""


class InProcessGrid(SimulationGrid):
    """One message is handled after the other, each by the client app itself."""

    def __init__(self, app: ClientApp, *, n_clients: int, scenario_json: str) -> None:
        super().__init__(n_clients=n_clients)
        self._app = app
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
