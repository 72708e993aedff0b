"""The same run on Ray: our actors on one node and on several, one of them lost; and on Flower."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedkd import backends
from fedkd.compose import compose
from fedkd.errors import ConfigError
from fedkd.results import RoundResult
from fedkd.run_files import read_events
from fedkd.run_folder import RunFolder
from fedkd.scenario import to_json
from fedkd.simulation import new_run, resumed_run, run_into, simulate, simulation_grid
from fedkd.transport.frame_grid import DIED
from fedkd.transport.inprocess import run_on
from fedkd.transport.ray_cluster import LOOPBACK, Cluster
from fedkd.transport.workers import WorkerGrid

BIN = Path(sys.executable).parent
TINY = ("scenario=iid", "data=digits", "models=mlp", "clients=5", "rounds=2")
LONG = ("rounds=4", "method=fedmd", "min_completion=0.3", "partition=iid")


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """Two nodes of a Ray cluster with one CPU each, on loopback; a third comes to be lost."""
    before = dict(os.environ)
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster_utils = importlib.import_module("ray.cluster_utils")
    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=small)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()
    os.environ.clear()
    os.environ.update(before)


def _ray(machines: Any, *overrides: str) -> list[str]:
    return [*TINY, "runtime.backend=ray", f"runtime.ray_address={machines.address}", *overrides]


def _local(out: Path, *overrides: str) -> dict[str, Any]:
    return simulate([*TINY, "runtime.workers=1", *overrides], out=out)


def _command(out: Path, *overrides: str) -> list[str]:
    words = [*TINY, "runtime.workers=2", *overrides, "--out", str(out), "--quiet", "--json"]
    return [str(BIN / "fedkd"), "simulate", *words]


def _run(folder: RunFolder, after: Callable[[RoundResult], None]) -> list[RoundResult]:
    """Run into a folder and do something after every round."""
    seen: list[RoundResult] = []

    def show(stream: Iterator[RoundResult]) -> None:
        for result in stream:
            seen.append(result)
            after(result)

    run_into(folder, show=show)
    return seen


@pytest.mark.slow
@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("workers", "overrides"),
    [(1, ()), (2, ("wire=float16",)), (2, ("server_view=sums", "proxy=external"))],
)
def test_actors_on_several_nodes_give_the_result_of_one_process(
    tmp_path: Path, machines: Any, workers: int, overrides: tuple[str, ...]
) -> None:
    there = simulate(_ray(machines, f"runtime.workers={workers}", *overrides), out=tmp_path / "ray")
    here = _local(tmp_path / "local", *overrides)
    assert there["result_hash"] == here["result_hash"]
    assert there["bytes_up"] == here["bytes_up"]
    assert there["failures"] == 0
    left = {p.name for p in (Path(there["run_dir"]) / backends.CLIENTS).iterdir()}
    assert left == {"ledgers"}, "the models of simulated clients stay no longer than the run"


SHARES = [{0}, {1, 2}, {3, 4}]
"""Clients of each of three workers, of five in all."""


@pytest.mark.slow
@pytest.mark.enable_socket
def test_a_lost_node_costs_its_clients_one_round_and_they_go_on_from_their_files(
    tmp_path: Path, machines: Any
) -> None:
    overrides = (*LONG, "runtime.workers=3", "runtime.checkpoint_every=0")
    seen, seconds = _run_that_loses_a_node(tmp_path / "ray", machines, overrides)
    lost = {f.client for f in seen[2].failures}
    assert {f.reason for f in seen[2].failures} == {DIED}
    assert lost in SHARES
    assert [r.failures for r in seen[3:]] == [[], []]
    assert [r.cohort for r in seen[1:]] == [[0, 1, 2, 3, 4]] * 4
    assert seconds < 120, "the loss is noticed"
    forked = _with_a_killed_worker(tmp_path / "forked", worker=SHARES.index(lost), n_workers=3)
    assert [r.digest for r in seen] == [r.digest for r in forked], "as if a local worker had died"
    whole = read_events(Path(_local(tmp_path / "whole", *LONG)["run_dir"]))
    assert [event["digest"] for event in whole][:2] == [r.digest for r in seen[:2]]
    assert [event["digest"] for event in whole][2:] != [r.digest for r in seen[2:]]


@pytest.mark.slow
@pytest.mark.enable_socket
def test_a_loss_that_a_checkpoint_notices_costs_nothing(tmp_path: Path, machines: Any) -> None:
    seen, _ = _run_that_loses_a_node(tmp_path / "ray", machines, (*LONG, "runtime.workers=3"))
    assert not [failure for result in seen for failure in result.failures]
    whole = read_events(Path(_local(tmp_path / "whole", *LONG)["run_dir"]))
    assert [event["digest"] for event in whole] == [r.digest for r in seen]


def _run_that_loses_a_node(
    out: Path, machines: Any, overrides: Sequence[str]
) -> tuple[list[RoundResult], float]:
    """Lose one of three nodes after round 1; return results, and seconds till the next."""
    doomed = machines.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    machines.wait_for_nodes()
    told: list[float] = []

    def after(result: RoundResult) -> None:
        told.append(time.monotonic())
        if result.round == 1:
            _lose(machines, doomed)

    seen = _run(new_run(compose(_ray(machines, *overrides)), out=out), after)
    return seen, told[2] - told[1]


def _lose(machines: Any, doomed: Any) -> None:
    """Let all processes of a node end at once, as when a machine loses power."""
    raylet = psutil.Process(doomed.all_processes["raylet"][0].process.pid)
    there = [raylet, *raylet.children(recursive=True)]
    machines.remove_node(doomed, allow_graceful=False)
    for process in there:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _with_a_killed_worker(out: Path, *, worker: int, n_workers: int) -> list[RoundResult]:
    """Run in forked workers, one of them killed after round 1."""
    folder = new_run(compose([*TINY, *LONG, "runtime.checkpoint_every=0"]), out=out)
    grid = simulation_grid(folder.scenario, n_workers=n_workers, folder=folder)
    assert isinstance(grid, WorkerGrid)
    seen: list[RoundResult] = []

    def consume(_: Any, start: Any) -> None:
        for result in folder.record(start(folder)):
            seen.append(result)
            if result.round == 1:
                os.kill(grid.process_ids()[worker], signal.SIGKILL)

    with folder:
        try:
            server = backends.part("fedkd_server.app:build_app")(consume)
            run_on(grid, server, scenario_json=to_json(folder.scenario))
        finally:
            grid.close()
    return seen


@pytest.mark.slow
@pytest.mark.enable_socket
def test_an_interrupted_run_is_resumed_on_ray(tmp_path: Path, machines: Any) -> None:
    folder = new_run(compose(_ray(machines, *LONG)), out=tmp_path)

    def stop(result: RoundResult) -> None:
        if result.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _run(folder, stop)
    again, notes = resumed_run(folder.path)
    _run(again, lambda _: None)
    assert again.summary()["result_hash"] == _local(tmp_path, *LONG)["result_hash"], notes


@pytest.mark.slow
@pytest.mark.enable_socket
def test_ray_carries_bytes_and_nothing_of_ours(
    tmp_path: Path, machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = importlib.import_module("ray")
    carried: list[object] = []
    put, get, call = ray.put, ray.get, ray.actor.ActorMethod._remote

    def called(self: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        carried.extend([*(args or ()), *(kwargs or {}).values()])
        return call(self, args, kwargs, **options)

    def got(refs: Any, **options: Any) -> Any:
        carried.append(get(refs, **options))
        return carried[-1]

    monkeypatch.setattr(ray, "put", lambda value: (carried.append(value), put(value))[1])
    monkeypatch.setattr(ray, "get", got)
    monkeypatch.setattr(ray.actor.ActorMethod, "_remote", called)
    simulate(_ray(machines, "proxy=external", "proxy.size=1000"), out=tmp_path)
    ours = [thing for thing in carried if not isinstance(thing, ray.ObjectRef)]
    assert {type(thing) for thing in ours} == {bytes}
    shared = [thing for thing in carried if isinstance(thing, ray.ObjectRef)]
    assert len(shared) > len(set(shared)), "the same broadcast goes to several actors, put once"


@pytest.mark.slow
@pytest.mark.enable_socket
def test_what_a_cluster_cannot_do_is_said_with_the_remedy(tmp_path: Path, machines: Any) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.workers: 5 workers, and Ray has 2 CPUs"):
        simulate(_ray(machines, "runtime.workers=5"), out=tmp_path)
    with pytest.raises(ConfigError, match=r"runtime\.device: 'cuda' is asked for, but no node"):
        simulate(_ray(machines, "runtime.device=cuda"), out=tmp_path)
    nowhere = _ray(machines, "runtime.ray_address=127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"no Ray at '127\.0\.0\.1:1'.*ray start --head"):
        simulate(nowhere, out=tmp_path)


@pytest.mark.slow
@pytest.mark.enable_socket
def test_a_machine_that_sees_another_folder_is_refused(tmp_path: Path, machines: Any) -> None:
    folder = new_run(compose(_ray(machines)), out=tmp_path)
    cluster = Cluster(folder.scenario.runtime)
    try:
        host = cluster.ray.remote(backends.part("fedkd.transport.ray_host:Host")).remote()
        states = tmp_path / "states"
        states.mkdir()
        (states / "seal").write_text("another run's")
        home = backends.Home(
            scenario="", run="", states=str(states), ledgers="", errors="", plugins=()
        )
        facts = json.dumps({"home": home.to_json(), "sealed": "this run's"}).encode()
        told = json.loads(cluster.ray.get(host.open.remote(facts)))
    finally:
        cluster.close()
    assert f"does not see '{states}'" in told["error"]


@pytest.mark.slow
@pytest.mark.enable_socket
@pytest.mark.parametrize("backend", ["ray", "flower"])
def test_one_command_starts_and_ends_ray_on_loopback(tmp_path: Path, backend: str) -> None:
    command = _command(tmp_path, f"runtime.backend={backend}")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        heard, started = _watch(run.pid)
        out, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    (line,) = out.splitlines()
    there = json.loads(line)
    assert there["result_hash"] == _local(tmp_path / "local")["result_hash"]
    assert there["failures"] == 0
    assert heard, "Ray was there"
    assert heard <= {LOOPBACK, f"::ffff:{LOOPBACK}"}
    _, alive = psutil.wait_procs(started, timeout=90)
    assert not alive


@pytest.mark.slow
@pytest.mark.enable_socket
def test_an_interrupted_run_on_flower_is_resumed(tmp_path: Path) -> None:
    command = _command(tmp_path, "runtime.backend=flower", "rounds=12")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        while not (found := [p for p in tmp_path.glob("*/events.jsonl") if _lines(p) > 3]):
            assert run.poll() is None, "it ended before it was interrupted"
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=120)
    assert run.returncode == 130, errors
    resume = [str(BIN / "fedkd"), "resume", str(found[0].parent), "--json"]
    done = subprocess.run(resume, capture_output=True, text=True, check=True, timeout=300)
    there = json.loads(done.stdout.splitlines()[-1])
    assert there["result_hash"] == _local(tmp_path / "local", "rounds=12")["result_hash"]


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _watch(pid: int) -> tuple[set[str], list[psutil.Process]]:
    """Return the addresses on which a process and its children listen till it ends, and them."""
    heard: set[str] = set()
    known: dict[int, psutil.Process] = {}
    run = psutil.Process(pid)
    while run.is_running() and run.status() != psutil.STATUS_ZOMBIE:
        for process in run.children(recursive=True):
            known[process.pid] = process
            try:
                listening = [c for c in process.net_connections("inet") if c.status == "LISTEN"]
            except psutil.Error:
                continue
            heard |= {c.laddr.ip for c in listening}
        time.sleep(0.5)
    return heard, list(known.values())


def test_without_ray_the_remedy_is_named_and_no_folder_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for backend in ("ray", "flower"):
        with pytest.raises(ConfigError, match=rf"{backend}.*pip install 'fedkd\[ray\]'"):
            simulate([*TINY, f"runtime.backend={backend}"], out=tmp_path)
    assert not list(tmp_path.iterdir())
