"""Backends of a simulation beyond this machine's processes: Ray with our actors, or Flower's."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from flwr.serverapp import ServerApp

from fedkd.errors import ConfigError
from fedkd.plugins import loaded_plugins
from fedkd.run_folder import RunFolder
from fedkd.scenario import Scenario, to_json
from fedkd.transport.batch import GROUPS
from fedkd.transport.flower_simulation import run_on_flower
from fedkd.transport.home import Home, part
from fedkd.transport.inprocess import run_on
from fedkd.transport.ray_cluster import Cluster
from fedkd.transport.ray_grid import Plan, RayGrid

CLIENTS = "clients"
"""In a run folder: what clients on Ray carry while the run goes on, and their ledgers after it."""
FLEET, APP = "fedkd_clients.app:fleet_in_files", "fedkd_clients.app:app_in_files"
INTAKE = "fedkd_server.intake:UploadIntake"


def on_ray(server: ServerApp, folder: RunFolder, *, ledgers: Path | None) -> None:
    """Run with clients in actors on a Ray cluster.

    Raises:
        ConfigError: no Ray, no such cluster, or its machines cannot host the clients.
    """
    home = _home(folder, ledgers, afresh=True)
    with ray_grid(folder, home) as grid:
        run_on(grid, server, scenario_json=home.scenario)
    shutil.rmtree(home.states)


def on_flower(server: ServerApp, folder: RunFolder, *, ledgers: Path | None) -> None:
    """Run with Flower's simulation runtime, whose actors find clients in their files.

    Raises:
        ConfigError: no Ray, or no such cluster.
    """
    home, cluster = _home(folder, ledgers, afresh=folder.resumed is None), _cluster(folder)
    try:
        gpus = cluster.wants_gpus(folder.scenario.runtime.device)
        run_on_flower(
            server,
            part(APP)(home),
            n_clients=folder.scenario.clients,
            scenario_json=home.scenario,
            cpus=1.0 if gpus else cluster.cpus() / n_workers_on(cluster, folder.scenario),
            gpus=1.0 if gpus else 0.0,
        )
    finally:
        cluster.close()
    shutil.rmtree(home.states)


@contextmanager
def ray_grid(folder: RunFolder, home: Home) -> Generator[RayGrid]:
    """Give a grid whose actors host all clients of a run, as its checkpoint left them."""
    scenario, cluster = folder.scenario, _cluster(folder)
    try:
        plan = Plan(
            home=home,
            fleet=FLEET,
            intake=INTAKE,
            n_workers=n_workers_on(cluster, scenario),
            n_gpus=int(cluster.wants_gpus(scenario.runtime.device)),
        )
        grid = RayGrid(cluster, plan, method=scenario.method, n_clients=scenario.clients)
        try:
            if folder.resumed is not None:
                grid.restore(folder.resumed.path, folder.resumed.proxy())
            yield grid
        finally:
            grid.close()
    finally:
        cluster.close()


def n_workers_on(cluster: Cluster, scenario: Scenario) -> int:
    """Return how many actors share the clients; ConfigError when the cluster has no room."""
    wanted = scenario.runtime.workers
    most = min(GROUPS, len(scenario.participants()))
    gpus = cluster.wants_gpus(scenario.runtime.device)
    room, of = (cluster.gpus(), "GPUs") if gpus else (cluster.cpus(), "CPUs")
    if wanted != "auto" and min(most, wanted) > room:
        raise ConfigError(
            f"runtime.workers: {wanted} workers, and Ray has {room} {of}; ask for {room} or "
            "fewer, or add machines to the cluster"
        )
    return min(most, room if wanted == "auto" else wanted)


def _cluster(folder: RunFolder) -> Cluster:
    return Cluster(folder.scenario.runtime)


def _home(folder: RunFolder, ledgers: Path | None, *, afresh: bool) -> Home:
    """Make the clients' folders. ``afresh`` forgets their states, and never their ledgers."""
    base = (folder.path / CLIENTS).resolve()
    states = base / "states"
    if afresh:
        shutil.rmtree(states, ignore_errors=True)
    states.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Home(
        scenario=to_json(folder.scenario),
        run=folder.run_id,
        states=str(states),
        ledgers=str((ledgers or base / "ledgers").resolve()),
        errors=str((folder.path / "errors.log").resolve()),
        plugins=loaded_plugins(),
    )
