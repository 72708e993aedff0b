"""What fedkd's engine adds to a federated-distillation round: all that is not arithmetic of models.

    python -m bench.overhead [scenario=noniid_strong clients=50 ...] [--repeats 3]

A run with ``runtime.workers=1`` in this process, in which the executors' ``train`` (private batches
and distillation) and ``predict_rows`` (the proxy set) carry a stop watch. The rest of a round is
overhead: requests and replies, counted bytes, validation, ledger, protection, aggregation, copies.
The first round is left out (it fits filters), and so is measuring the clients' models.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fedkd_clients.learner
import torch

from bench import harness
from bench.harness import Table, pair
from bench.ours import NEVER, seconds_of
from fedkd.results import RoundResult
from fedkd.simulation import simulate
from fedkd.training.executors.choice import EXECUTORS


class StopWatch:
    """Adds up the time spent inside the functions it was put on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, owner: Any, name: str) -> None:
        """Time every call of ``owner.name`` from now on."""
        plain: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(plain)
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return plain(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - started

        setattr(owner, name, timed)


def measured_run(words: list[str], watch: StopWatch) -> tuple[list[float], list[float]]:
    """Run a scenario; return the seconds of its steady rounds, and those inside the watch."""
    results: list[RoundResult] = []
    inside: list[float] = []

    def look(stream: Iterator[RoundResult]) -> None:
        watch.seconds = 0.0
        for result in stream:
            results.append(result)
            inside.append(watch.seconds)
            watch.seconds = 0.0

    with tempfile.TemporaryDirectory() as folder:
        simulate(words, out=folder, show=look)
    # The last round is left out too: its closing measurements are taken before it is seen.
    return seconds_of(results)[1:-1], inside[2:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", default=["scenario=noniid_strong"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    if read.rounds < 3:
        parser.error(f"--rounds {read.rounds}: the first and the last are left out, take 3 or more")
    torch.set_num_threads(1)
    words = [*read.words, f"rounds={read.rounds}", f"measure_every={NEVER}", "runtime.workers=1"]
    watch = StopWatch()
    for kind in {type(executor) for executor in EXECUTORS.values()}:
        watch.on(kind, "train")
    watch.on(fedkd_clients.learner, "predict_rows")
    rounds: list[float] = []
    compute: list[float] = []
    for _ in range(read.repeats):
        seconds, inside = measured_run(words, watch)
        rounds += seconds
        compute += inside
    if min(compute) == 0:
        raise SystemExit("nothing was trained inside this process; is runtime.workers=1 obeyed?")
    overhead = [100 * (whole - bare) / bare for whole, bare in zip(rounds, compute, strict=True)]
    row = [pair(harness.least_and_median(each)) for each in (rounds, compute, overhead)]
    harness.save(
        "overhead",
        settings={"scenario": words, "repeats": read.repeats},
        samples={"round": rounds, "compute": compute, "overhead_percent": overhead},
        tables={
            "overhead": Table(
                columns=("scenario", "round, s", "bare compute, s", "overhead, %"),
                rows=[[" ".join(read.words), *row]],
            )
        },
        packages={"fedkd": harness.versions(("fedkd", "torch"))},
        out=read.out,
    )


if __name__ == "__main__":
    main()
