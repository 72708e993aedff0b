"""Tune every method on one grid, on seeds that no reported figure uses, and say what each prefers.

Runs ``fedkd compare`` for each point of the grid (finished runs are skipped), then prints one line
a point, the best point of each method, and the mean over methods. docs/results holds what came out
and reports each method at its own best point beside the common defaults.

    python bench/tuning.py OUT
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import defaultdict

SEED, ROUNDS = 100, 20
METHODS = {
    "noniid_strong": ["edgefd", "fedmd", "own_only"],
    "external_proxy": ["edgefd_soft", "edgefd", "fedmd"],
}
LEARNING_RATES = [5e-4, 1e-3, 2e-3]
TEMPERATURES = [1.0, 3.0]


def accuracies(
    scenario: str, learning_rate: float, temperature: float, *, out: str
) -> dict[str, float]:
    methods = ",".join(
        f"{{name: {name}, distiller: {{temperature: {temperature}}}}}" for name in METHODS[scenario]
    )
    words = [f"scenario={scenario}", f"method={methods}", f"seed={SEED}", "seeds=1"]
    words += [f"rounds={ROUNDS}", "measure_every=10", f"training.learning_rate={learning_rate}"]
    command = [sys.executable, "-m", "fedkd", "compare", *words, "--out", out, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    return {name: row["mean"] for name, row in zip(METHODS[scenario], rows, strict=True)}


def main() -> None:
    out = sys.argv[1]
    best: dict[tuple[str, str], tuple[float, str]] = {}
    means: defaultdict[str, list[float]] = defaultdict(list)
    for rate, temperature in itertools.product(LEARNING_RATES, TEMPERATURES):
        point = f"learning_rate={rate} temperature={temperature}"
        for scenario in METHODS:
            found = accuracies(scenario, rate, temperature, out=out)
            means[point] += found.values()
            print(
                point,
                scenario,
                {name: round(value, 3) for name, value in found.items()},
                flush=True,
            )
            for name, value in found.items():
                key = (scenario, name)
                best[key] = max(best.get(key, (0.0, "")), (value, point))
    for (scenario, name), (value, point) in best.items():
        print(f"best for {name} on {scenario}: {value:.3f} at {point}")
    for point, values in means.items():
        print(f"mean over all: {sum(values) / len(values):.3f} at {point}")


if __name__ == "__main__":
    main()
