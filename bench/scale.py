"""Clients from 10 to 10,000: seconds a client, peak memory, and whether memory grows over rounds.

    python -m bench.scale [--clients 10 100 1000 10000] [--cohort 500] [--rounds 5]

Federated distillation (FedMD) with fedkd's MLP on 20 images a client and an external proxy set of
200; at most ``cohort`` clients take part in a round. Every size runs in a process of its own; one
that is smaller than the cohort takes more rounds, so that a client's cost is measured as long.

Memory is added up over the run's processes in two ways. RSS counts a page once for every process
that has it: all that the workers share with the process they were forked from, the data set among
it, three times. PSS divides a page among them, so that the sum is what the run really takes; it
still counts pages of the rows' file that the system may drop at any time.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import threading
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
MORE = 5
"""Times the rounds, of sizes smaller than the cohort."""


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


def memory_now() -> tuple[float, float]:
    """Return MiB of this process and its children: resident, and with shared pages divided."""
    us, resident, divided = psutil.Process(), 0, 0
    for process in (us, *us.children(recursive=True)):
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        found = dict(re.findall(r"^(Rss|Pss):\s+(\d+) kB", text, flags=re.MULTILINE))
        resident += int(found.get("Rss", 0))
        divided += int(found.get("Pss", 0))
    return resident / 1024, divided / 1024


class _Peak(threading.Thread):
    """Looks every second; walking the pages of large processes more often would slow them down."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self.resident = self.divided = 0.0

    def run(self) -> None:
        while not self._done.wait(1.0):
            self.look()

    def look(self) -> tuple[float, float]:
        now = memory_now()
        self.resident, self.divided = max(self.resident, now[0]), max(self.divided, now[1])
        return now

    def stop(self) -> None:
        self._done.set()
        self.join()


def run_one(words: list[str]) -> None:
    """Run one scenario in this process; report seconds, memory after every round, and its peak."""
    memory: list[float] = []
    divided: list[float] = []
    results: list[RoundResult] = []
    peak = _Peak()

    def watch(stream: Iterator[RoundResult]) -> None:
        for result in stream:
            now = peak.look()
            memory.append(now[0])
            divided.append(now[1])
            results.append(result)

    peak.start()
    with tempfile.TemporaryDirectory() as folder:
        summary = simulate(words, out=folder, show=watch)
    peak.stop()
    job.report(
        seconds_of(results),
        accuracy=summary["accuracy_mean"],
        memory=memory,
        memory_divided=divided,
        peak=peak.resident,
        peak_divided=peak.divided,
    )


def slope(memory: list[float]) -> float:
    """Return the growth of memory in MiB a round, after the first round."""
    kept = memory[1:-1]  # the set-up is not a round, and after the last one everybody is measured
    return statistics.linear_regression(range(len(kept)), kept).slope


def each(clients: int, cohort: int, trials: list[Trial]) -> list[float]:
    """Return milliseconds a client, of every round but the first."""
    return [1e3 * s / min(cohort, clients) for t in trials for s in t.result["rounds"][1:]]


def row(clients: int, cohort: int, trials: list[Trial], base: list[float]) -> list[str]:
    """Return a line of the table; ``base`` are milliseconds a client of the size compared with."""
    found = each(clients, cohort, trials)
    return [
        str(clients),
        pair(harness.least_and_median(found)),
        pair(harness.ratios(found, base)),
        pair(harness.least_and_median(t.wall for t in trials)),
        figure(max(max(t.peak_mib, t.result["peak"]) for t in trials)),
        figure(statistics.median(slope(t.result["memory"]) for t in trials)),
        figure(max(t.result["peak_divided"] for t in trials)),
        figure(statistics.median(slope(t.result["memory_divided"]) for t in trials)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="*", default=[10, 100, 1000, 10_000])
    parser.add_argument("--cohort", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=4)
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
            rounds = read.rounds * (MORE if clients < read.cohort else 1)
            words = overrides(data, clients, cohort=read.cohort, rounds=rounds) + read.set
            command = [sys.executable, "-m", "bench.scale", "--one", *words]
            sides.append(Side(name=str(clients), command=command))
        trials = harness.interleave(sides, repeats=read.repeats)
    for name, tried in trials.items():
        if error := next((t.error for t in tried if t.error), ""):
            raise SystemExit(f"{name} clients: {error}")
    base_size = 100 if 100 in read.clients else read.clients[0]
    base = each(base_size, read.cohort, trials[str(base_size)])
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
                    "RSS growth, MiB a round",
                    "peak PSS, MiB",
                    "PSS growth, MiB a round",
                ),
                rows=[row(n, read.cohort, trials[str(n)], base) for n in read.clients],
            )
        },
        packages={"fedkd": harness.versions(("fedkd", "torch"))},
        out=read.out,
    )


if __name__ == "__main__":
    main()
