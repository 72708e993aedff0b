"""A round of federated distillation: fedkd, a plain Flower app and a plain PyTorch loop.

    python -m bench.distillation_round [--clients 20] [--rounds 6] [--repeats 3] [--envs FOLDER]

FedMD on the shipped images, IID clients with fedkd's ``cnn_small`` and a pooled proxy set: the same
rows, steps and losses on all sides. Models are measured after the last round only. Flower runs in
an environment of its own. The plain sides are ``bench/plain/``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from bench import harness
from bench.federation import write_federation
from bench.harness import Side, Table, Trial, figure, pair
from bench.ours import NEVER
from bench.peers.environments import default_folder, environment
from fedkd.compose import compose


def overrides(clients: int, rounds: int, words: list[str]) -> list[str]:
    """Return the scenario of all sides."""
    common = ["scenario=iid", "method=fedmd", f"clients={clients}", f"rounds={rounds}"]
    return [*common, f"measure_every={NEVER}", *words]


def rounds_of_run(runs: Path) -> list[list[float]]:
    """Return the seconds of all rounds of every run in a folder, oldest first."""
    found: list[list[float]] = []
    for events in sorted(runs.glob("*/events.jsonl"), key=lambda path: path.stat().st_mtime):
        lines = [json.loads(line) for line in events.read_text().splitlines()]
        found.append(
            [
                m["value"]
                for line in lines
                for m in line["measurements"]
                if m["name"] == "seconds" and m["round"] > 0
            ]
        )
    return found


def row(name: str, trials: list[Trial], seconds: list[list[float]], ours: list[float]) -> list[str]:
    """Return a line of the table; ``ours`` are fedkd's steady rounds."""
    steady = [s for run in seconds for s in run[1:]]
    return [
        name,
        pair(harness.least_and_median(steady)),
        pair(harness.ratios(steady, ours)),
        figure(harness.least_and_median(run[0] for run in seconds)["median"]),
        pair(harness.least_and_median(t.wall for t in trials)),
        pair(harness.least_and_median(t.cpu for t in trials)),
        figure(max(t.peak_mib for t in trials)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="more overrides, such as runtime.*")
    parser.add_argument("--envs", type=Path, default=default_folder())
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    words = overrides(read.clients, read.rounds, read.set)
    versions = {"fedkd, plain loop": harness.versions(("fedkd", "torch"))}
    flower = environment("flower", envs=read.envs)
    with tempfile.TemporaryDirectory() as name:
        data, runs = Path(name) / "federation.npz", Path(name) / "runs"
        write_federation(compose(words), data)
        plain = [sys.executable, "-m", "bench.plain.distillation", str(data), "--filter", "all"]
        plain += ["--rounds", str(read.rounds), "--measure-last"]
        cores = dict.fromkeys(harness.ONE_THREAD, str(os.cpu_count()))
        fedkd = [sys.executable, "-m", "fedkd", "simulate", *words, "--out", str(runs)]
        sides = [
            Side(name="fedkd", command=fedkd),
            Side(name="plain loop, 1 thread", command=plain),
            Side(name="plain loop, all cores", command=plain, environment=cores),
        ]
        if flower.python is None:
            print(f"  skipped Flower: {flower.reason}", file=sys.stderr)
        else:
            versions["flower"] = flower.versions or {}
            facts = {"BENCH_FEDERATION": str(data), "BENCH_ROUNDS": str(read.rounds)}
            sides.append(
                Side(
                    name="plain Flower app",
                    command=[str(flower.python), "-m", "bench.plain.flower_distillation"],
                    environment=facts | {"BENCH_CLIENTS": str(read.clients)},
                )
            )
        trials = harness.interleave(sides, repeats=read.repeats)
        for side, tried in trials.items():
            if error := next((t.error for t in tried if t.error), ""):
                raise SystemExit(f"{side}: {error}")
        seconds = {side: [t.result.get("rounds", []) for t in trials[side]] for side in trials}
        seconds["fedkd"] = rounds_of_run(runs)
        summaries = [json.loads(path.read_text()) for path in runs.glob("*/summary.json")]
    accuracies = {
        side: [t.result["accuracy"] for t in trials[side]] for side in trials if side != "fedkd"
    }
    accuracies["fedkd"] = [round(one["accuracy_mean"], 4) for one in summaries]
    ours = [s for run in seconds["fedkd"] for s in run[1:]]
    rows = [
        [*row(side, tried, seconds[side], ours), f"{min(accuracies[side]):.3f}"]
        for side, tried in trials.items()
    ]
    columns = ("side", "round, s", "/ fedkd", "first round, s", "whole job, s", "CPU, s")
    harness.save(
        "distillation_round",
        settings={"clients": read.clients, "rounds": read.rounds, "repeats": read.repeats}
        | {"scenario": words},
        samples={"trials": harness.as_samples(trials), "rounds": seconds, "accuracy": accuracies},
        tables={
            "rounds": Table(columns=(*columns, "peak RSS, MiB", "accuracy"), rows=rows),
        },
        packages=versions,
        out=read.out,
    )


if __name__ == "__main__":
    main()
