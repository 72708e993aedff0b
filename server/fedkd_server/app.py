"""The Flower server app: one scenario, one run, one stream of round results."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkd.results import RoundResult, summarise
from fedkd.run_folder import RunFolder
from fedkd.scenario import Scenario, from_json
from fedkd.transport.careful import CarefulGrid
from fedkd.transport.grid import SimulationGrid
from fedkd.transport.inprocess import SCENARIO_KEY
from fedkd_server.rounds import run_rounds

logger = logging.getLogger("flwr")

Start = Callable[[RunFolder], Iterator[RoundResult]]
"""Starts the rounds of a run folder, or goes on with them."""
Consumer = Callable[[Scenario, Start], None]
"""Starts a run and takes its stream to the end: records it, shows it, or both."""


def build_app(consume: Consumer) -> ServerApp:
    """Return the server app; ``consume`` is what happens to the stream of round results."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
        scenario = from_json(str(context.run_config[SCENARIO_KEY]))
        scenario.runtime.check_timed(scenario.client_models())
        torch.set_num_threads(scenario.runtime.threads)
        carrier = grid if isinstance(grid, SimulationGrid) else CarefulGrid(grid)

        def start(folder: RunFolder) -> Iterator[RoundResult]:
            return run_rounds(
                carrier,
                scenario,
                folder.ledger,
                checkpoints=folder.checkpoints,
                resumed=folder.resumed,
            )

        consume(scenario, start)

    return app


def record(scenario: Scenario, start: Start) -> None:
    """Record a run under ``$FEDKD_RUNS`` (default ``runs/``) and log a line a round.

    ``$FEDKD_RUN_ID`` names it to the clients; ``$FEDKD_RESUME`` is the folder of a run to go on
    with, from its newest checkpoint.
    """
    if "FEDKD_RESUME" in os.environ:
        folder = RunFolder.reopen(Path(os.environ["FEDKD_RESUME"]))
        for note in folder.resume():
            logger.warning(note)
    else:
        runs = Path(os.environ.get("FEDKD_RUNS", "runs"))
        folder = RunFolder.create(runs, scenario, run_id=os.environ.get("FEDKD_RUN_ID"))
    logger.info("run folder: %s", folder.path.resolve())
    with folder:
        for result in folder.record(start(folder)):
            figures = summarise([result], adversaries=folder.scenario.attackers())
            logger.info("round %d: accuracy %s", result.round, figures["accuracy_mean"])
    logger.info("result hash: %s", folder.summary()["result_hash"])


app = build_app(record)
