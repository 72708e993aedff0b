"""The Flower server app: one scenario, one run, one stream of round results."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkd.results import RoundResult
from fedkd.scenario import Scenario, from_json
from fedkd.transport.inprocess import SCENARIO_KEY
from fedkd_server.rounds import run_rounds

Consumer = Callable[[Scenario, Iterator[RoundResult]], None]
"""Takes a run's stream to its end: records it, shows it, or both."""


def build_app(consume: Consumer) -> ServerApp:
    """Return the server app; ``consume`` is what happens to the stream of round results."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
        scenario = from_json(str(context.run_config[SCENARIO_KEY]))
        torch.set_num_threads(scenario.runtime.threads)
        consume(scenario, run_rounds(grid, scenario))

    return app
