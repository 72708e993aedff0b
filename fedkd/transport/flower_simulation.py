"""A simulation on Flower's own runtime: it starts a client app anew for every message, on Ray."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from threading import Event
from types import FrameType

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedkd.errors import RunStopped
from fedkd.transport.inprocess import SCENARIO_KEY

NODES_S = 60
"""Seconds in which Flower has registered its nodes; the server says who is missing then."""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def run_on_flower(
    server: ServerApp,
    client: ClientApp,
    *,
    n_clients: int,
    scenario_json: str,
    cpus: float,
    gpus: float,
) -> None:
    """Run two Flower apps against each other on the Ray that is connected, to the server's end.

    An interrupt ends the server first, and with it what Flower's threads ask of Ray: a thread that
    asks Ray while Ray goes brings the process down.

    Args:
        server: its app runs in a thread of this process; what it raises is raised here.
        client: the app, which crosses to Ray's actors as Flower sends it.
        n_clients: Flower's nodes.
        scenario_json: for the server's run config; the client app has its own.
        cpus: of one of Flower's actors.
        gpus: of one of Flower's actors.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    vars(importlib.import_module("flwr.supercore.telemetry"))["FLWR_TELEMETRY_ENABLED"] = "0"
    simulation = importlib.import_module("flwr.simulation")
    told, interrupted = logging.getLogger("flwr"), Event()
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        with _noting_interrupts(interrupted):
            simulation.run_simulation(
                server_app=_configured(server, scenario_json, interrupted, n_clients=n_clients),
                client_app=client,
                num_supernodes=n_clients,
                backend_config={"client_resources": {"num_cpus": cpus, "num_gpus": gpus}},
            )
    finally:
        interrupted.set()  # Flower leaves the server's thread waiting for ever
        told.setLevel(level)


@contextmanager
def _noting_interrupts(interrupted: Event) -> Generator[None]:
    """Let Ctrl-C and SIGTERM set an event first; a second one interrupts at once.

    Raises:
        KeyboardInterrupt: at the end, whatever else was raised, where there was one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not come here
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(number, before[number])

    numbers = (int(signal.SIGINT), int(signal.SIGTERM))
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    except Exception:
        if not interrupted.is_set():
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupted.is_set():
        raise KeyboardInterrupt


def _configured(
    server: ServerApp, scenario_json: str, interrupted: Event, *, n_clients: int
) -> ServerApp:
    """Return the app with the run config that Flower's function has no word for.

    Flower starts it beside the thread that registers the nodes, and either may be first.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
        _let_interrupt(grid, interrupted)
        limit = time.monotonic() + NODES_S
        while len([*grid.get_node_ids()]) < n_clients and time.monotonic() < limit:
            if interrupted.wait(0.05):
                raise RunStopped("interrupted")
        context.run_config = {SCENARIO_KEY: scenario_json}
        server(grid, context)

    return app


def _let_interrupt(grid: Grid, interrupted: Event) -> None:
    """Make the grid's waiting end once the run is interrupted."""
    pull = grid.pull_messages

    def pull_messages(message_ids: Iterable[str]) -> Iterable[Message]:
        if interrupted.is_set():
            raise RunStopped("interrupted")
        return pull(message_ids)

    vars(grid)["pull_messages"] = pull_messages
