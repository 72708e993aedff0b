"""Accuracy against epsilon: DP-SGD at several targets, without noise, and without DP-SGD at all.

Runs ``fedkd compare`` for each setting (finished runs are skipped), computes every epsilon again
with dp-accounting alone, prints a table, writes a CSV and draws a figure.

    python bench/accuracy_against_epsilon.py OUT TABLE.csv FIGURE.png
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant

from fedkd.reports.plotting import PALETTE, STYLE, new_figure
from fedkd.run_files import read_scenario, read_summary

SEEDS = 3
PLAIN = ["privacy.dp_sgd=false", "privacy.target_epsilon=null", "training.learning_rate=0.001"]
"""The default rate, which suits training without DP-SGD better than the scenario's."""
SETTINGS = {
    "epsilon 2": ["method=fedmd", "privacy.target_epsilon=2"],
    "epsilon 4": ["method=fedmd", "privacy.target_epsilon=4"],
    "epsilon 8": ["method=fedmd", "privacy.target_epsilon=8"],
    "DP-SGD, no noise": [
        "method=fedmd",
        "privacy.target_epsilon=null",
        "privacy.noise_multiplier=0",
    ],
    "no DP-SGD": ["method=fedmd", *PLAIN],
    "alone": ["method=local", *PLAIN],
}
"""``alone``: every client trains by itself, nothing leaves it, so nothing needs noise."""


def independent_epsilon(run: str) -> float | None:
    """Compose the run's steps with dp-accounting, from the public constants of its scenario."""
    scenario = read_scenario(Path(run))
    privacy, recipe = scenario.privacy, scenario.training
    if not privacy.dp_sgd or not privacy.noise_multiplier:
        return None
    steps_per_epoch = max(1, round(1 / privacy.sampling_probability))
    steps = scenario.rounds * recipe.local_epochs * steps_per_epoch
    step = PoissonSampledDpEvent(
        privacy.sampling_probability, GaussianDpEvent(privacy.noise_multiplier)
    )
    return PLDAccountant().compose(step, steps).get_epsilon(privacy.delta)


def measure(name: str, overrides: list[str], *, out: str) -> list[dict[str, object]]:
    words = ["scenario=dp_sgd", f"seeds={SEEDS}", *overrides]
    command = [sys.executable, "-m", "fedkd", "compare", *words, "--out", out, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows: list[dict[str, object]] = []
    for row in json.loads(done.stdout.splitlines()[-1]):
        printed = {read_summary(Path(run))["epsilon"] for run in row["runs"]}
        found = {independent_epsilon(run) for run in row["runs"]}
        rows.append(
            {
                "setting": name,
                "method": row["method"],
                "seeds": row["n_seeds"],
                "accuracy_mean": row["mean"],
                "ci_low": row["ci_low"],
                "ci_high": row["ci_high"],
                "epsilon_printed": max(printed, key=lambda e: e or 0.0),
                "epsilon_dp_accounting": max(found, key=lambda e: e or 0.0),
            }
        )
        print(rows[-1], flush=True)
    return rows


def draw(rows: list[dict[str, object]], path: Path) -> None:
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = new_figure(1050, 600)
        axes = figure.add_subplot()
        places = list(SETTINGS)
        y = [100 * float(str(row["accuracy_mean"])) for row in rows]
        low = [100 * float(str(row["ci_low"])) for row in rows]
        error = [mean - end for mean, end in zip(y, low, strict=True)]
        axes.errorbar(places, y, yerr=error, color=PALETTE[0], marker="o", ls="", capsize=3)
        for place, mean in enumerate(y):
            axes.annotate(f"{mean:.1f}", (place, mean), (8, 0), textcoords="offset points")
        axes.set_ylabel("accuracy of the clients' models, percent")
        axes.set_title("fashion_mini, 10 clients, 20 rounds, delta 1e-5; bars: 95 % over 3 seeds")
        figure.savefig(path)


def main() -> None:
    out, table, picture = sys.argv[1:]
    rows = [row for name, words in SETTINGS.items() for row in measure(name, words, out=out)]
    with Path(table).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, Path(picture))


if __name__ == "__main__":
    main()
