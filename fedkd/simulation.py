"""Run a scenario in this process: the two Flower apps, the in-process grid, a run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.serverapp import ServerApp

from fedkd import backends, collector
from fedkd.compose import compose
from fedkd.data.federation import layout_rows
from fedkd.errors import ConfigError
from fedkd.privacy.plan import planned
from fedkd.results import RoundResult
from fedkd.run_folder import RunFolder
from fedkd.runtime import Backend, Device
from fedkd.scenario import Scenario, to_json
from fedkd.transport.batch import GROUPS, BatchGrid, LocalGrid
from fedkd.transport.home import log_client_errors, part
from fedkd.transport.inprocess import run_on
from fedkd.transport.ray_cluster import check_installed
from fedkd.transport.workers import WorkerGrid

FLEET = "fedkd_clients.app:fleet_in_memory"
CALIBRATED = "fedkd_clients.calibrated:calibrated"
SERVER, INTAKE = "fedkd_server.app:build_app", "fedkd_server.intake:UploadIntake"
Show = Callable[[Iterator[RoundResult]], None]


def simulate(
    scenario: Scenario | Sequence[str],
    *,
    out: Path | str = "runs",
    show: Show | None = None,
    ledgers: Path | None = None,
) -> dict[str, Any]:
    """Run a scenario to its end and return its summary.

    Args:
        scenario: a scenario, or the overrides that make one (``["scenario=iid", "rounds=3"]``).
        out: the folder in which the run folder is made.
        show: takes the stream of round results to its end; None is silent.
        ledgers: a folder with the clients' privacy ledgers, so that what earlier runs on the same
            data spent counts in this one; None starts with nothing spent.

    Returns:
        The keys of ``summary.json`` (docs/run_folder.md); ``run_dir`` is the run folder.

    Raises:
        ConfigError: the scenario cannot be run; nothing was trained.
        RunStopped: too few clients completed a round; the run folder holds what was done.
    """
    resolved = scenario if isinstance(scenario, Scenario) else compose(scenario)
    folder = new_run(resolved, out=Path(out))
    run_into(folder, show=show or watch_quietly, ledgers=ledgers)
    return folder.summary()


def new_run(scenario: Scenario, *, out: Path) -> RunFolder:
    """Read the data and share it out, so that what cannot run leaves no folder; then make one.

    With ``runtime.calibrate``, executors are timed before, unless the scenario holds what an
    earlier run found; the folder's scenario says what the run uses.
    """
    check_installed(scenario.runtime)
    layout_rows(scenario.layout())
    alone = scenario.runtime.backend is Backend.LOCAL and n_workers_of(scenario) == 1
    settled, timings = part(CALIBRATED)(planned(scenario), alone=alone)
    return RunFolder.create(out, settled, timings=timings)


def resumed_run(path: Path) -> tuple[RunFolder, list[str]]:
    """Return the folder of a run that did not finish, wound back to its newest checkpoint.

    Returns:
        The folder, and what a person should know: a damaged checkpoint, rounds done again.

    Raises:
        ConfigError: there is no such run, it is still running, it finished, it was served to real
            clients, or its scenario is no longer the one of its checkpoints.
    """
    folder = RunFolder.reopen(path)
    if folder.deployed:
        raise ConfigError(
            f"{str(path)!r}: this run is of real clients; go on with 'fedkd server up --resume "
            f"{path} --certs DIR'"
        )
    return folder, folder.resume()


def run_into(folder: RunFolder, *, show: Show, ledgers: Path | None = None) -> None:
    """Run ``folder.scenario``, writing into ``folder`` as it goes."""

    def consume(_: Scenario, start: Callable[[RunFolder], Iterator[RoundResult]]) -> None:
        show(folder.record(start(folder)))

    with folder, _client_errors_in(folder.path / "errors.log"):
        server, backend = part(SERVER)(consume), folder.scenario.runtime.backend
        if backend is Backend.RAY:
            backends.on_ray(server, folder, ledgers=ledgers)
        elif backend is Backend.FLOWER:
            backends.on_flower(server, folder, ledgers=ledgers)
        else:
            _run_here(server, folder, ledgers)


def _run_here(server: ServerApp, folder: RunFolder, ledgers: Path | None) -> None:
    grid = simulation_grid(folder.scenario, ledgers=ledgers, folder=folder)
    try:
        run_on(grid, server, scenario_json=to_json(folder.scenario))
    finally:
        grid.close()


def simulation_grid(
    scenario: Scenario,
    *,
    ledgers: Path | None = None,
    n_workers: int | None = None,
    folder: RunFolder | None = None,
) -> BatchGrid:
    """Return a grid that hosts all clients of a scenario, in this process or in workers.

    Args:
        scenario: what they take part in.
        ledgers: a folder with their privacy ledgers; None keeps those in memory.
        n_workers: in place of the scenario's own word; :meth:`BatchGrid.close` ends them.
        folder: of the run; clients go on from the checkpoint it was resumed from.
    """
    run = "" if folder is None else folder.run_id
    fleet, intake = part(FLEET)(scenario, ledgers, run=run), part(INTAKE)(scenario)
    if folder is not None and folder.resumed is not None:
        proxy = folder.resumed.proxy()
        for path in folder.resumed.clients():
            fleet.restore(path, proxy)
    if folder is not None and ledgers is None:
        fleet.recall(folder.ledger)
    n_workers = n_workers_of(scenario) if n_workers is None else n_workers
    if n_workers == 1:
        return LocalGrid(fleet, intake, n_clients=scenario.clients)
    with collector.shared():
        return WorkerGrid(
            fleet, intake, method=scenario.method, n_workers=n_workers, n_clients=scenario.clients
        )


def n_workers_of(scenario: Scenario) -> int:
    """Return how many processes share the clients: at most one a core, a client and a group."""
    wanted = scenario.runtime.workers
    most = min(GROUPS, len(scenario.participants()))
    if scenario.runtime.device is not Device.CPU:
        return 1
    if wanted == "auto":
        return min(most, len(os.sched_getaffinity(0)))
    return min(most, wanted)


def watch_quietly(stream: Iterator[RoundResult]) -> None:
    """Take a stream to its end without a word."""
    for _ in stream:
        pass


@contextmanager
def _client_errors_in(path: Path) -> Generator[None]:
    """Send client tracebacks to a file: they may hold private data and never reach the server."""
    logger = logging.getLogger("fedkd.client")
    propagated, handler = logger.propagate, log_client_errors(path)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.propagate = propagated
