"""The same run on every grid: Flower messages one by one, batches in this process, workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import torch
from fedkd_server.rounds import run_rounds
from flwr.serverapp import ServerApp

from fedkd.results import RoundResult, result_hash
from fedkd.scenario import Scenario, to_json
from fedkd.simulation import n_workers_of, simulation_grid
from fedkd.transport.frame_grid import DIED
from fedkd.transport.inprocess import run_on
from fedkd.transport.workers import WorkerGrid

SCENARIOS = {
    "edgefd, pooled": ("method=edgefd",),
    "edgefd, external": ("method=edgefd", "proxy=external"),
    "soft weights": ("method=edgefd_soft", "proxy=external"),
    "a subset a round": ("method=fedmd", "proxy.rows_per_round=7"),
    "parameters": ("method=fedavg", "training.optimizer=sgd"),
    "convolutions": ("method=fedavg", "models=cnn_small"),
    "nothing": ("method=local",),
    "robust": ("method=fedmd", "method.aggregator=median"),
    "told temperatures": ("protector=swing",),
    "cohort": ("cohort=3", "rounds=3"),
    "server student": ("server_model=mlp",),
    "transcript": ("transcript=all",),
    "masked sums": ("server_view=sums", "proxy=external"),
    "half precision": ("wire=float16",),
}


def _run(scenario: Scenario, *, workers: int) -> list[RoundResult]:
    results: list[RoundResult] = []
    grid = simulation_grid(scenario, n_workers=workers)

    try:
        run_on(grid, _server(scenario, results.append), scenario_json=to_json(scenario))
    finally:
        grid.close()
    return results


def _server(scenario: Scenario, take: Callable[[RoundResult], None]) -> ServerApp:
    """Return a server app that hands over every result before it goes on, and keeps no folder."""
    app = ServerApp()

    @app.main()
    def main(grid, context) -> None:
        for result in run_rounds(grid, scenario):
            take(result)

    return app


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_grid_gives_the_same_bits(play, tiny, name):
    scenario = tiny("clients=5", *SCENARIOS[name])
    runs = {n: _run(scenario, workers=n) for n in (1, 2, 3)}
    runs[0] = play(scenario)
    assert len({result_hash(run) for run in runs.values()}) == 1
    assert not [f for r in runs[2] for f in r.failures]
    assert len({result.digest for result in runs[1]}) > 1 or name == "nothing"


def test_uploads_come_back_where_a_transcript_is_kept_and_only_there(tiny):
    kept = _run(tiny("clients=5", "transcript=all"), workers=2)
    plain = _run(tiny("clients=5"), workers=2)
    assert list(kept[1].traffic.uploads) == [0, 1, 2, 3, 4]
    assert plain[1].traffic.uploads == {}
    assert [r.digest for r in kept] == [r.digest for r in plain]


def test_a_worker_that_dies_costs_its_clients_one_round_and_is_replaced(tiny):
    scenario = tiny("clients=5", "rounds=4", "method=fedmd", "min_completion=0.3")
    grid = simulation_grid(scenario, n_workers=2)
    assert isinstance(grid, WorkerGrid)
    seen: list[RoundResult] = []

    def kill_one(result: RoundResult) -> None:
        seen.append(result)
        if result.round == 1:
            os.kill(grid.process_ids()[1], signal.SIGKILL)

    try:
        run_on(grid, _server(scenario, kill_one), scenario_json=to_json(scenario))
    finally:
        grid.close()
    lost = {f.client for f in seen[2].failures if f.reason == DIED}
    assert lost == {2, 3, 4}
    assert [r.failures for r in seen[3:]] == [[], []]
    assert [len(r.cohort) for r in seen[1:]] == [5, 5, 5, 5]
    whole = _run(scenario, workers=2)
    assert [r.digest for r in whole[:2]] == [r.digest for r in seen[:2]]
    assert whole[2].digest != seen[2].digest
    measured = {m.client for m in seen[4].measurements if m.name == "accuracy"}
    assert measured == {0, 1, 2, 3, 4}


def test_workers_end_with_their_grid(tiny):
    grid = simulation_grid(tiny("clients=4"), n_workers=2)
    assert isinstance(grid, WorkerGrid)
    processes = grid.process_ids()
    grid.close()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_auto_takes_a_worker_a_core_and_no_more_than_there_are_clients(tiny):
    cores = len(os.sched_getaffinity(0))
    assert n_workers_of(tiny("clients=5", "runtime.workers=auto")) == min(5, cores)
    assert n_workers_of(tiny("clients=2", "runtime.workers=8")) == 2
    assert n_workers_of(tiny("clients=5", "runtime.workers=1")) == 1
    assert n_workers_of(tiny("clients=5", "method=centralised")) == 1


def test_workers_leave_torch_s_threads_alone_here(tiny):
    before = torch.get_num_threads()
    grid = simulation_grid(tiny("clients=4"), n_workers=2)
    grid.close()
    assert torch.get_num_threads() == before
