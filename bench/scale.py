"""Clients from 10 to 10,000: seconds a client, peak memory, and whether memory grows over rounds.

    python -m bench.scale [--clients 10 100 1000 10000] [--cohort 500] [--rounds 5]

Federated distillation (FedMD) with fedkd's MLP on 20 images a client and an external proxy set of
200; at most ``cohort`` clients take part in a round. Every size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from bench import harness, job
from bench.harness import Side, Table, Trial, figure, pair
from bench.ours import NEVER, seconds_of
from fedkd.results import RoundResult
from fedkd.simulation import simulate

ROWS, PROXY, TEST = 20, 200, 100


def write_images(path: Path, clients: int) -> None:
    """Write a data set of ``uint8`` images, enough for all clients and the proxy set."""
    train = [_images(n, n_rows=ROWS) for n in range(clients)] + [_images(clients, n_rows=PROXY)]
    test_inputs, test_labels = _images(clients + 1, n_rows=TEST)
    np.savez(
        path,
        x_train=np.concatenate([inputs for inputs, _ in train]),
        y_train=np.concatenate([labels for _, labels in train]),
        x_test=test_inputs,
        y_test=test_labels,
    )


def _images(number: int, *, n_rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    inputs, labels = job.client_examples(number, n_rows=n_rows)
    return np.clip(128 + 32 * inputs[:, 0], 0, 255).astype(np.uint8), labels


def overrides(data: Path, clients: int, *, cohort: int, rounds: int) -> list[str]:
    """Return the scenario of one size."""
    return [
        "scenario=iid",
        f"data={{name: npz, root: {data}}}",
        "partition=iid",
        f"proxy={{name: external, size: {PROXY}}}",
        "models=mlp",
        "method=fedmd",
        f"clients={clients}",
        f"cohort={min(cohort, clients)}",
        f"rounds={rounds}",
        "local_test_fraction=0",
        f"measure_every={NEVER}",
    ]


def resident() -> float:
    """Return resident MiB of this process and its children."""
    us = psutil.Process()
    return sum(p.memory_info().rss for p in (us, *us.children(recursive=True))) / 2**20


def run_one(words: list[str]) -> None:
    """Run one scenario in this process and report seconds and memory after every round."""
    memory: list[float] = []
    results: list[RoundResult] = []

    def watch(stream: Iterator[RoundResult]) -> None:
        for result in stream:
            memory.append(resident())
            results.append(result)

    with tempfile.TemporaryDirectory() as folder:
        summary = simulate(words, out=folder, show=watch)
    job.report(seconds_of(results), accuracy=summary["accuracy_mean"], memory=memory)


def slope(memory: list[float]) -> float:
    """Return the growth of resident memory in MiB a round, after the first round."""
    kept = memory[1:-1]  # the set-up is not a round, and after the last one everybody is measured
    return statistics.linear_regression(range(len(kept)), kept).slope


def row(clients: int, cohort: int, trials: list[Trial], base: float) -> list[str]:
    """Return a line of the table."""
    steady = [s / min(cohort, clients) for t in trials for s in t.result["rounds"][1:]]
    each = harness.least_and_median(1e3 * seconds for seconds in steady)
    return [
        str(clients),
        pair(each),
        figure(each["median"] / base),
        pair(harness.least_and_median(t.wall for t in trials)),
        figure(max(t.peak_mib for t in trials)),
        figure(statistics.median(slope(t.result["memory"]) for t in trials)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="*", default=[10, 100, 1000, 10_000])
    parser.add_argument("--cohort", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], help="more overrides, such as runtime.*")
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    if read.one:
        run_one(read.one)
        return
    if read.rounds < 4:
        parser.error(f"--rounds {read.rounds}: a slope of memory needs 4 or more")
    with tempfile.TemporaryDirectory() as folder:
        sides: list[Side] = []
        for clients in read.clients:
            data = Path(folder) / f"{clients}.npz"
            write_images(data, clients)
            words = overrides(data, clients, cohort=read.cohort, rounds=read.rounds) + read.set
            command = [sys.executable, "-m", "bench.scale", "--one", *words]
            sides.append(Side(name=str(clients), command=command))
        trials = harness.interleave(sides, repeats=read.repeats)
    for name, tried in trials.items():
        if error := next((t.error for t in tried if t.error), ""):
            raise SystemExit(f"{name} clients: {error}")
    base_size = 100 if 100 in read.clients else read.clients[0]
    base = statistics.median(
        1e3 * s / min(read.cohort, base_size)
        for t in trials[str(base_size)]
        for s in t.result["rounds"][1:]
    )
    harness.save(
        "scale",
        settings={"cohort": read.cohort, "rounds": read.rounds, "repeats": read.repeats}
        | {"overrides": read.set, "rows_a_client": ROWS, "proxy_rows": PROXY},
        samples=harness.as_samples(trials),
        tables={
            "scale": Table(
                columns=(
                    "clients",
                    "ms a client and round",
                    f"/ {base_size} clients",
                    "whole run, s",
                    "peak RSS, MiB",
                    "growth, MiB a round",
                ),
                rows=[row(n, read.cohort, trials[str(n)], base) for n in read.clients],
            )
        },
        packages={"fedkd": harness.versions(("fedkd", "torch"))},
        out=read.out,
    )


if __name__ == "__main__":
    main()
