"""Run a scenario in this process: the two Flower apps, the in-process grid, a run folder."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedkd.compose import compose
from fedkd.data.federation import layout_rows
from fedkd.privacy.ledger import Ledger
from fedkd.privacy.plan import planned
from fedkd.results import RoundResult
from fedkd.run_folder import RunFolder
from fedkd.runtime import Device
from fedkd.scenario import Scenario, to_json
from fedkd.transport.batch import GROUPS, BatchGrid, LocalGrid
from fedkd.transport.inprocess import run_on
from fedkd.transport.workers import WorkerGrid

FLEET = "fedkd_clients.app:fleet_in_memory"
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
    """Read the data and share it out, so that what cannot run leaves no folder; then make one."""
    layout_rows(scenario.layout())
    return RunFolder.create(out, planned(scenario))


def run_into(folder: RunFolder, *, show: Show, ledgers: Path | None = None) -> None:
    """Run ``folder.scenario``, writing into ``folder`` as it goes."""

    def consume(_: Scenario, start: Callable[[Ledger], Iterator[RoundResult]]) -> None:
        show(folder.record(start(folder.ledger)))

    with folder, _client_errors_in(folder.path / "errors.log"):
        grid = simulation_grid(folder.scenario, ledgers=ledgers)
        try:
            run_on(grid, _part(SERVER)(consume), scenario_json=to_json(folder.scenario))
        finally:
            grid.close()


def simulation_grid(
    scenario: Scenario, *, ledgers: Path | None = None, n_workers: int | None = None
) -> BatchGrid:
    """Return a grid that hosts all clients of a scenario, in this process or in workers.

    ``n_workers`` takes the place of the scenario's own word; :meth:`BatchGrid.close` ends them.
    """
    fleet, intake = _part(FLEET)(scenario, ledgers), _part(INTAKE)(scenario)
    n_workers = n_workers_of(scenario) if n_workers is None else n_workers
    if n_workers == 1:
        return LocalGrid(fleet, intake, n_clients=scenario.clients)
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


def _part(reference: str) -> Any:
    """Return ``module:attribute``; the two sides are reached by name, never imported."""
    module, attribute = reference.split(":")
    return getattr(importlib.import_module(module), attribute)


@contextmanager
def _client_errors_in(path: Path) -> Generator[None]:
    """Send client tracebacks to a file: they may hold private data and never reach the server."""
    logger = logging.getLogger("fedkd.client")
    handler = logging.FileHandler(path, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.propagate = propagated
