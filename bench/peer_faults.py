"""Each fault of a table, on Flower's own functions and on ours: what comes out of it.

    python -m bench.peer_faults [--out docs/results]

The inputs are those of a list of measured faults: a client that returns NaN, the same seed twice,
impossible numbers of examples, shapes that broadcast, index arrays, a worker process that is
killed, and a simulation that does nothing. ``tests/server/test_peer_faults.py`` holds our side.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fedkd_server.cohort import cohort
from fedkd_server.intake import UploadIntake, merged
from fedkd_server.rounds import run_rounds
from flwr.app import Context
from flwr.serverapp import ServerApp

from bench import harness
from fedkd.compose import compose
from fedkd.results import RoundResult
from fedkd.scenario import Scenario, to_json
from fedkd.simulation import simulation_grid
from fedkd.transport.inprocess import run_on
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.workers import WorkerGrid
from fedkd.types import Update, Upload

RESULT = "RESULT "
AVERAGING = ("data=digits", "models=mlp", "clients=4", "method=fedavg", "training.optimizer=sgd")


def averaged(
    uploads: Sequence[Upload | None], *, sent: Update
) -> tuple[list[float] | None, list[str]]:
    """Return what our server makes of some clients' uploads, and why it dropped others."""
    scenario = compose(list(AVERAGING))
    intake = UploadIntake(scenario)
    clients = range(len(uploads))
    asked = [Request(action=Action.ROUND, client=c, round=1, incoming=sent) for c in clients]
    replies = [Reply(client=c, upload=uploads[c]) for c in clients]
    whole, state = merged([intake.take(asked, replies, keep=False)], scenario, n_rows=0)
    reasons = [f"client {client}: {reason}" for client, reason in whole.failures]
    if state is None:
        return None, reasons
    made = scenario.method.finish(state, rng=torch.Generator())
    return (made.arrays["w"].tolist() if isinstance(made, Update) else None), reasons


def part(value: float, *, size: int = 3, weight: float = 10.0) -> Update:
    """Return parameters that are all one value."""
    return Update(arrays={"w": torch.full((size,), value)}, weight=weight)


SENT = part(0.0)
GOOD = [part(1.0), part(2.0), part(3.0)]


def aggregation() -> dict[str, Any]:
    """Return what becomes of each bad upload among good ones."""
    counts = {}
    for count in (1e9, -5.0, float("nan")):
        counts[str(count)] = averaged([*GOOD, part(100.0, weight=count)], sent=SENT)
    indices = {"index": torch.tensor([0, 2]), "values": torch.tensor([1.0, 3.0])}
    sparse = [Update(arrays=indices, weight=10.0), Update(arrays=indices, weight=10.0)]
    return {
        "nan": averaged([*GOOD, part(float("nan"))], sent=SENT),
        "counts": counts,
        "shapes": averaged([part(0.0), part(6.0, size=1)], sent=SENT),
        "sparse": averaged(sparse, sent=SENT),
    }


def sampled() -> list[list[int]]:
    """Return whom 50 % sampling draws from 10 clients in two rounds."""
    scenario = compose(["data=digits", "models=mlp", "clients=10", "cohort=5", "rounds=2"])
    return [cohort(scenario, scenario.participants(), round=n) for n in (1, 2)]


def run(scenario: Scenario, *, workers: int, killed_after: int = 0) -> list[RoundResult]:
    """Run in worker processes, of which one is killed after a round."""
    grid, app, seen = simulation_grid(scenario, n_workers=workers), ServerApp(), []

    @app.main()
    def serve(grid: WorkerGrid, context: Context) -> None:
        for result in run_rounds(grid, scenario):
            seen.append(replace(result, traffic=None))
            if result.round == killed_after > 0:
                os.kill(grid.process_ids()[1], signal.SIGKILL)

    try:
        run_on(grid, app, scenario_json=to_json(scenario))
    finally:
        grid.close()
    return seen


def dead_worker() -> list[dict[str, Any]]:
    """Return who answered in each of five rounds of ten clients, a worker killed after the 1st."""
    words = ["data=digits", "models=mlp", "clients=10", "rounds=5", "method=fedmd"]
    seen = run(compose([*words, "min_completion=0.3"]), workers=2, killed_after=1)
    return [{"failed": len(r.failures), "cohort": len(r.cohort)} for r in seen if r.round > 0]


def idle() -> dict[str, Any]:
    """Return how long the smallest run takes that there is: 2 clients, 2 rounds, training too."""
    words = ["data=digits", "models=mlp", "clients=2", "rounds=2", "method=fedavg"]
    with tempfile.TemporaryDirectory() as runs:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "fedkd", "simulate", *words, "--out", runs]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - begun
    seconds = [
        m.value
        for r in run(compose(words), workers=2)
        for m in r.measurements
        if m.name == "seconds" and r.round > 0
    ]
    return {"whole": round(whole, 2), "rounds": [round(s, 4) for s in seconds]}


def flower(mode: str) -> dict[str, Any]:
    """Return what Flower does, in a process of its own."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "bench.peers.flower_faults", mode],
            env=os.environ | {"BENCH_MARKER": f"{folder}/killed"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    told = json.loads(lines[-1].removeprefix(RESULT)) if lines else {}
    whole = round(time.perf_counter() - begun, 2)
    return told | {"status": done.returncode, "whole": whole}


def rows(theirs: dict[str, Any], ours: dict[str, Any]) -> list[list[str]]:
    """Return the table: input, Flower, fedkd."""
    they, we = theirs["aggregation"], ours["aggregation"]
    found = [
        ["one of 4 clients returns NaN", _numbers(they["nan"]), _said(we["nan"])],
    ]
    found += [
        [
            f"`num-examples` = {float(count):g} from one client that sends 100",
            _numbers(value),
            _said(we["counts"][count]),
        ]
        for count, value in they["counts"].items()
    ]
    found += [
        ["arrays `(3,)` and `(1,)` under one key", _numbers(they["shapes"]), _said(we["shapes"])],
        [
            "sparse replies {index, values}: 0, 2 and 1, 5",
            f"index {_numbers(they['sparse']['index'])}, values "
            f"{_numbers(they['sparse']['values'])}",
            _said(we["sparse"]),
        ],
    ]
    drawn = [[r["clients"] for r in one["rounds"]] for one in theirs["sampling"]]
    means = [" ".join(f"{r['result'][0]:g}" for r in one["rounds"]) for one in theirs["sampling"]]
    same = "the same" if ours["sampling"][0] == ours["sampling"][1] else "others"
    found.append(
        [
            "two simulations with the same seed, 10 clients, 50 % sampling, 2 rounds",
            f"clients {drawn[0]} and {drawn[1]}; results {means[0]} and {means[1]}",
            f"clients {ours['sampling'][0]}, and {same} in another process",
        ]
    )
    dead = [
        f"{r['failed']} of {r['failed'] + len(r['clients'])}"
        for r in theirs["dead_actor"].get("rounds", [])
    ]
    alive = [f"{r['failed']} of {r['cohort']}" for r in ours["dead_worker"]]
    found.append(
        [
            "one worker process killed, 10 clients, 5 rounds: clients lost by round",
            f"{', '.join(dead) or 'no round ended'}; exit status {theirs['dead_actor']['status']}",
            f"{', '.join(alive)}; named in the report, the worker replaced",
        ]
    )
    found.append(
        [
            "smallest simulation, 2 clients, 2 rounds: seconds whole, and by round",
            f"{theirs['idle']['whole']}; {theirs['idle']['seconds']} (does nothing)",
            f"{ours['idle']['whole']}; {ours['idle']['rounds']} (trains)",
        ]
    )
    return found


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"


def _said(found: tuple[list[float] | None, list[str]]) -> str:
    values, reasons = found
    made = "no average" if values is None else _numbers(values)
    return "; ".join([made, *reasons])


PAGE = """# Faults, on Flower and here

Flower {flower}, its own aggregation functions and simulation, beside fedkd {fedkd}, on {date}:
`python -m bench.peer_faults`. The good clients of the averages send 1, 2 and 3, whose mean is 2.
Our side is held by `tests/server/test_peer_faults.py` and `tests/e2e/test_grids.py`. Seconds are of
one run on {cores} cores at a load of {load}; they say an order of magnitude.
Raw data: [peer_faults.json](peer_faults.json).

| input | Flower | fedkd |
| --- | --- | --- |
{rows}

Flower's average does what its documentation says: a mean with the weights it is told. What is
missing is a look at what came. Its simulation draws clients with Python's global stream from node
ids that are random in every run, so no seed repeats a run. What our reader refuses
before any check is in [security](../security.md).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=harness.ROOT / "docs" / "results")
    read = parser.parse_args()
    theirs: dict[str, Any] = {mode: flower(mode) for mode in ("aggregation", "dead_actor", "idle")}
    theirs["sampling"] = [flower("sampling") for _ in range(2)]
    again = [sys.executable, "-c", "from bench.peer_faults import sampled; print(sampled())"]
    other = subprocess.run(again, capture_output=True, text=True, check=True).stdout
    ours = {
        "aggregation": aggregation(),
        "sampling": [sampled(), json.loads(other.splitlines()[-1])],
        "dead_worker": dead_worker(),
        "idle": idle(),
    }
    table, versions = rows(theirs, ours), harness.versions(("flwr", "fedkd", "ray"))
    machine, date = harness.machine(), time.strftime("%Y-%m-%d")
    lines = ["| " + " | ".join(row) + " |" for row in table]
    page = PAGE.format(
        flower=versions["flwr"],
        fedkd=versions["fedkd"],
        date=date,
        cores=machine["cores"],
        load=machine["load"],
        rows="\n".join(lines),
    )
    (read.out / "peer_faults.md").write_text(page, encoding="utf-8")
    raw = {"schema": 1, "date": date, "machine": machine, "versions": versions}
    found = json.dumps(raw | {"flower": theirs, "fedkd": ours})
    text = json.dumps(json.loads(found, parse_constant=str), indent=1)  # NaN is no JSON
    (read.out / "peer_faults.json").write_text(text + "\n", encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
