"""How long one waits: for ``fedkd --help``, for a whole run of one round, for Flower's the same.

python -m bench.start_up [--repeats 5] [--envs FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench import harness
from bench.harness import Side, Table, figure, pair
from bench.peers.environments import default_folder, environment

ONE_ROUND = ["--model", "mlp", "--rounds", "1"]
TORCH = "a process that imports torch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--envs", type=Path, default=default_folder())
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    versions = {"fedkd": harness.versions(("fedkd", "torch"))}
    with tempfile.TemporaryDirectory() as runs:
        fedkd = [sys.executable, "-m", "fedkd"]
        smoke = ["simulate", "scenario=iid", "rounds=1", "--out", runs]
        sides = [
            Side(name=TORCH, command=[sys.executable, "-c", "import torch"]),
            Side(name="fedkd --help", command=[*fedkd, "--help"]),
            Side(name="fedkd simulate scenario=iid rounds=1", command=[*fedkd, *smoke]),
            Side(
                name="the peers' job on fedkd, 1 round",
                command=[sys.executable, "-m", "bench.ours", *ONE_ROUND],
            ),
        ]
        flower = environment("flower", envs=read.envs)
        if flower.python is None:
            print(f"  skipped Flower: {flower.reason}", file=sys.stderr)
        else:
            versions["flower"] = flower.versions or {}
            sides.append(
                Side(
                    name="the peers' job on Flower, 1 round",
                    command=[str(flower.python), "-m", "bench.peers.flower", *ONE_ROUND],
                )
            )
        trials = harness.interleave(sides, repeats=read.repeats)
    rows = []
    for name, tried in trials.items():
        if error := next((t.error for t in tried if t.error), ""):
            raise SystemExit(f"{name}: {error}")
        walls = harness.least_and_median(t.wall for t in tried)
        cpu = harness.least_and_median(t.cpu for t in tried)
        rows.append([name, pair(walls), pair(cpu), figure(max(t.peak_mib for t in tried))])
    harness.save(
        "start_up",
        settings={"repeats": read.repeats},
        samples=harness.as_samples(trials),
        tables={
            "start_up": Table(columns=("command", "wall, s", "CPU, s", "peak RSS, MiB"), rows=rows)
        },
        packages=versions,
        out=read.out,
    )


if __name__ == "__main__":
    main()
