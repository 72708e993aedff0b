"""1,000 clients of a tiny MLP (64-32-10): fedkd against a plain loop in a process a core.

    python -m bench.small_models [--clients 1000] [--rounds 6] [--repeats 8]

FedAvg, 60 examples a client, batches of 20, SGD without momentum; the plain side is
``bench/plain/small_models.py``. The first round is reported apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from bench import harness, job
from bench.harness import Side, Table, figure, pair
from bench.ours import NEVER, seconds_of
from bench.plain.small_models import COLUMNS, HIDDEN, small_mlp
from fedkd.models.base import Model, models
from fedkd.results import RoundResult
from fedkd.simulation import simulate


@models.register("bench_small_mlp")
@dataclass(frozen=True)
class BenchSmallMLP(Model):
    """The plain side's network."""

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a fresh module for tables of 64 columns."""
        return small_mlp()


def write_table(path: Path, clients: int) -> None:
    """Write learnable rows of 64 columns as an ``npz`` data set."""
    draw = np.random.default_rng(0)
    middles = draw.standard_normal((job.CLASSES, COLUMNS))
    labels = draw.integers(0, job.CLASSES, clients * job.ROWS + job.TEST_ROWS)
    rows = middles[labels] + draw.standard_normal((len(labels), COLUMNS))
    inputs, test = rows.astype(np.float32), -job.TEST_ROWS
    np.savez(
        path,
        x_train=inputs[:test],
        y_train=labels[:test],
        x_test=inputs[test:],
        y_test=labels[test:],
    )


def overrides(data: Path, *, clients: int, rounds: int, words: list[str]) -> list[str]:
    """Return fedkd's scenario."""
    return [
        "scenario=iid",
        f"data={{name: npz, root: {data}}}",
        "models=bench_small_mlp",
        "method=fedavg",
        f"clients={clients}",
        f"rounds={rounds}",
        "training.optimizer=sgd",
        "training.momentum=0",
        f"training.learning_rate={job.RATE}",
        f"training.batch_size={job.BATCH}",
        "local_test_fraction=0",
        f"measure_every={NEVER}",
        *words,
    ]


def run_here(words: list[str]) -> None:
    """Run one scenario in this process and report."""
    results: list[RoundResult] = []
    with tempfile.TemporaryDirectory() as folder:
        summary = simulate(words, out=folder, show=results.extend)
    job.report(seconds_of(results), accuracy=summary["server_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--set", nargs="*", default=[], help="more overrides, such as runtime.*")
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    if read.one:
        run_here(read.one)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "table.npz"
        write_table(data, read.clients)
        words = overrides(data, clients=read.clients, rounds=read.rounds, words=read.set)
        plain = [str(data), "--clients", str(read.clients), "--rounds", str(read.rounds)]
        python = [sys.executable, "-m"]
        sides = [
            Side(name="fedkd", command=[*python, "bench.small_models", "--one", *words]),
            Side(name="plain loop", command=[*python, "bench.plain.small_models", *plain]),
        ]
        trials = harness.interleave(sides, repeats=read.repeats)
    rows: list[list[str]] = []
    steady: dict[str, list[float]] = {}
    for name, tried in trials.items():
        if error := next((t.error for t in tried if t.error), ""):
            raise SystemExit(f"{name}: {error}")
        steady[name] = [s for t in tried for s in t.result["rounds"][1:]]
        rows.append(
            [
                name,
                pair(harness.least_and_median(steady[name])),
                pair(harness.ratios(steady[name], steady["fedkd"])),
                figure(harness.least_and_median(t.result["rounds"][0] for t in tried)["median"]),
                pair(harness.least_and_median(t.wall for t in tried)),
                pair(harness.least_and_median(t.cpu for t in tried)),
                figure(max(t.peak_mib for t in tried)),
                f"{min(t.result['accuracy'] for t in tried):.3f}",
            ]
        )
    columns = ("side", "round, s", "/ fedkd", "first round, s", "whole job, s", "CPU, s")
    harness.save(
        "small_models",
        settings={"clients": read.clients, "rounds": read.rounds, "repeats": read.repeats}
        | {"model": f"{COLUMNS}-{HIDDEN}-{job.CLASSES}", "overrides": read.set},
        samples=harness.as_samples(trials),
        tables={"rounds": Table(columns=(*columns, "peak RSS, MiB", "accuracy"), rows=rows)},
        packages={"both": harness.versions(("fedkd", "torch"))},
        out=read.out,
    )


if __name__ == "__main__":
    main()
