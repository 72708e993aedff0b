"""``fedkd simulate scenario=noniid_strong`` against a plain PyTorch script of the same method.

    python -m bench.noniid_strong [--rounds 20] [--seeds 3]

The script is ``bench/plain/distillation.py``: one process, a module, Adam, DataLoaders, KMeans and
PCA of scikit-learn. Same rows, rounds, steps and measurements (every client's model on the whole
test set and on its own, after every round, and once more after a closing pass), a seed a repeat.
A thread a core is what its user would get; one thread may be faster on small models, so the script
is run both ways, and fedkd is to be compared with the better one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import harness
from bench.federation import write_federation
from bench.harness import Side, Table, Trial, figure, pair
from fedkd.compose import compose

SCENARIO = "noniid_strong"
FIGURES = ("accuracy_mean", "accuracy_local_mean", "accuracy_distilled_mean", "teacher_accuracy")


def sides(folder: Path, *, rounds: int, seed: int, words: list[str]) -> list[Side]:
    """Return the three sides of one seed; writes the plain sides' data."""
    overrides = [f"scenario={SCENARIO}", f"rounds={rounds}", f"seed={seed}", *words]
    data = folder / f"federation-{seed}.npz"
    write_federation(compose(overrides), data)
    plain = [sys.executable, "-m", "bench.plain.distillation", str(data), "--seed", str(seed)]
    plain += ["--rounds", str(rounds), "--filter", "kmeans"]
    runs = str(folder / f"runs-{seed}")
    cores = dict.fromkeys(harness.ONE_THREAD, str(os.cpu_count()))
    return [
        Side(
            name="fedkd simulate",
            command=[sys.executable, "-m", "fedkd", "simulate", *overrides, "--out", runs],
        ),
        Side(name="plain script, all cores", command=plain, environment=cores),
        Side(name="plain script, 1 thread", command=plain),
    ]


def summary_of(folder: Path, seed: int) -> dict[str, Any]:
    """Return the summary of the seed's only run."""
    path = next((folder / f"runs-{seed}").glob("*/summary.json"))
    return json.loads(path.read_text())


def rows(trials: dict[str, list[Trial]], found: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Return a line a side; the ratios are fedkd's time over the side's."""
    lines: list[list[str]] = []
    ours = trials["fedkd simulate"]
    for name, tried in trials.items():
        wall = [t.wall for t in tried]
        cpu = [t.cpu for t in tried]
        lines.append(
            [
                name,
                pair(harness.least_and_median(wall)),
                pair(harness.ratios([t.wall for t in ours], wall)),
                pair(harness.least_and_median(cpu)),
                pair(harness.ratios([t.cpu for t in ours], cpu)),
                figure(max(t.peak_mib for t in tried)),
                *(spread([one[key] for one in found[name]]) for key in FIGURES),
            ]
        )
    return lines


def spread(values: list[float]) -> str:
    """Return mean and range over seeds."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="more overrides, such as runtime.*")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    trials: dict[str, list[Trial]] = {}
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(read.seeds):
            of_seed = sides(folder, rounds=read.rounds, seed=seed, words=read.set)
            for side, (trial,) in harness.interleave(of_seed, repeats=1).items():
                if trial.error:
                    raise SystemExit(f"{side}, seed {seed}: {trial.error}")
                trials.setdefault(side, []).append(trial)
                plain = side.startswith("plain")
                figures = trial.result if plain else summary_of(folder, seed)
                found.setdefault(side, []).append({key: figures[key] for key in FIGURES})
    columns = ("side", "wall, s", "fedkd / side", "CPU, s", "fedkd / side", "peak RSS, MiB")
    harness.save(
        SCENARIO,
        settings={"rounds": read.rounds, "seeds": read.seeds, "overrides": read.set},
        samples={"trials": harness.as_samples(trials), "figures": found},
        tables={"noniid_strong": Table(columns=(*columns, *FIGURES), rows=rows(trials, found))},
        packages={"both": harness.versions(("fedkd", "torch", "scikit-learn"))},
        out=read.out,
    )


if __name__ == "__main__":
    main()
