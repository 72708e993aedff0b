"""What attacks do to aggregators: every attack against every aggregator, and the price of each.

Runs ``fedkd compare`` over both lists (finished runs are reused), takes the accuracy of the honest
clients' models and of the consensus from the run folders, and writes a page and a CSV.

    python bench/attack_matrix.py OUT                        # everything: 840 runs
    python bench/attack_matrix.py OUT --attacks null,loss_maximisation --methods fedmd
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from fedkd.adversaries.base import adversaries
from fedkd.registry import describe
from fedkd.reports.comparison.table import interval
from fedkd.run_files import read_metrics, read_scenario, read_summary

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
AGGREGATORS = (
    "mean",
    "median",
    "trimmed_mean",
    "geometric_median",
    "multikrum",
    "cosine_filter",
    "outlier_weights",
)
NOBODY = "null"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: who attacked what, and how good the honest ended up.

    Attributes:
        honest_accuracy: mean over the honest clients' models, of the last round.
        teacher_accuracy: of the last consensus, over the proxy rows it answers.
        coverage: share of the proxy rows that it answers.
    """

    scenario: str
    method: str
    attack: str
    attackers: int
    aggregator: str
    seed: int
    honest_accuracy: float
    teacher_accuracy: float
    coverage: float
    run: str


def wanted() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="folder of the runs; finished ones are reused")
    parser.add_argument("--scenarios", default="noniid_weak,iid")
    parser.add_argument("--methods", default="edgefd,fedmd")
    parser.add_argument("--attacks", default=",".join((NOBODY, *adversaries.names())))
    parser.add_argument("--aggregators", default=",".join(AGGREGATORS))
    parser.add_argument("--attackers", type=int, default=3, help="of 10 clients")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--model", default="cnn_small", help="of every client")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=0, help="runs at once; 0: one a core")
    parser.add_argument("--to", type=Path, default=RESULTS, help="where page and CSV go")
    return parser.parse_args()


def command(asked: argparse.Namespace, *, scenario: str, method: str) -> list[str]:
    attacks = [
        name if name == NOBODY else f"{{name: {name}, clients: {asked.attackers}}}"
        for name in asked.attacks.split(",")
    ]
    return [
        *("fedkd", "compare", f"scenario={scenario}", f"method={method}"),
        f"attack={','.join(attacks)}",
        f"method.aggregator={asked.aggregators}",
        f"models={asked.model}",
        f"rounds={asked.rounds}",
        f"measure_every={asked.rounds}",
        f"seeds={asked.seeds}",
    ]


def measure(asked: argparse.Namespace, *, scenario: str, method: str) -> Iterator[Cell]:
    words = command(asked, scenario=scenario, method=method)[1:]
    options = ["--out", asked.out, "--jobs", str(asked.jobs), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "fedkd", *words, *options],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    for row in json.loads(done.stdout.splitlines()[-1]):
        for run in row["runs"]:
            yield cell(Path(run), scenario=scenario, method=method, attackers=asked.attackers)


def cell(run: Path, *, scenario: str, method: str, attackers: int) -> Cell:
    """Read one run; where nobody attacks, the same clients are left out of the mean."""
    resolved, summary, metrics = read_scenario(run), read_summary(run), read_metrics(run)
    described = describe(resolved)
    accuracy = metrics[metrics["name"] == "accuracy"]
    accuracy = accuracy[accuracy["round"] == accuracy["round"].max()]
    liars = resolved.attackers() or range(resolved.clients - attackers, resolved.clients)
    honest = accuracy[~accuracy["client"].isin(list(liars))]["value"]
    return Cell(
        scenario=scenario,
        method=method,
        attack=NOBODY if resolved.attack is None else described["attack"]["name"],
        attackers=len(resolved.attackers()),
        aggregator=described["method"]["aggregator"]["name"],
        seed=resolved.seed,
        honest_accuracy=float(honest.mean()),
        teacher_accuracy=summary["teacher_accuracy"],
        coverage=summary["coverage"],
        run=run.name,
    )


def page(asked: argparse.Namespace, cells: Sequence[Cell]) -> str:
    parts = [
        "# Attacks and defences\n",
        f"Accuracy in percent of the {asked.model} models of the {10 - asked.attackers} honest "
        f"clients after round {asked.rounds}, mean over {asked.seeds} seeds ± 95 % t-interval; in "
        "brackets that of the consensus on the proxy rows it answers. The last "
        f"{asked.attackers} of 10 clients attack. The price of an aggregator is its difference "
        "from `mean` with nobody attacking, paired by seed. Written by `bench/attack_matrix.py`; "
        "[attacks.csv](attacks.csv) holds every run. What the names mean: "
        "[attacks and defences](../how_to/attacks_and_defences.md).\n",
    ]
    for scenario in asked.scenarios.split(","):
        for method in asked.methods.split(","):
            some = [c for c in cells if (c.scenario, c.method) == (scenario, method)]
            parts += [f"## {scenario}, {method}\n", *table(some)]
            words = command(asked, scenario=scenario, method=method)
            shown = [f"'{word}'" if " " in word else word for word in words]
            parts += ["```", " ".join(shown), "```\n"]
    return "\n".join(parts)


def table(cells: Sequence[Cell]) -> Iterator[str]:
    found: dict[tuple[str, str], dict[int, Cell]] = defaultdict(dict)
    for one in cells:
        found[one.attack, one.aggregator][one.seed] = one
    aggregators = list(dict.fromkeys(one.aggregator for one in cells))
    attacks = list(dict.fromkeys(one.attack for one in cells))
    yield "| attack | " + " | ".join(f"`{name}`" for name in aggregators) + " |"
    yield "| --- |" + " --- |" * len(aggregators)
    for attack in attacks:
        row = [shown(list(found[attack, name].values())) for name in aggregators]
        yield f"| {'nobody' if attack == NOBODY else f'`{attack}`'} | " + " | ".join(row) + " |"
    plain = found.get((NOBODY, "mean"))
    if plain:
        prices = [price(found[NOBODY, name], plain) for name in aggregators]
        yield "| price | " + " | ".join(prices) + " |"
    yield ""


def shown(cells: Sequence[Cell]) -> str:
    mean, low, _ = interval([100 * one.honest_accuracy for one in cells])
    width = "" if low is None else f" ± {mean - low:.1f}"
    teacher = 100 * sum(one.teacher_accuracy for one in cells) / len(cells)
    return f"{mean:.1f}{width} ({teacher:.1f})"


def price(cells: dict[int, Cell], plain: dict[int, Cell]) -> str:
    if cells is plain:
        return "-"
    lost = [100 * (cells[s].honest_accuracy - plain[s].honest_accuracy) for s in sorted(plain)]
    mean, low, _ = interval(lost)
    return f"{mean:+.1f}" + ("" if low is None else f" ± {mean - low:.1f}")


def main() -> None:
    asked, cells = wanted(), []
    for scenario in asked.scenarios.split(","):
        for method in asked.methods.split(","):
            cells += measure(asked, scenario=scenario, method=method)
            print(f"{scenario} {method}: {len(cells)} runs done", flush=True)
    with (asked.to / "attacks.csv").open("w", newline="", encoding="utf-8") as file:
        names = [field.name for field in fields(Cell)]
        writer = csv.DictWriter(file, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in cells)
    (asked.to / "attacks.md").write_text(page(asked, cells), encoding="utf-8")


if __name__ == "__main__":
    main()
