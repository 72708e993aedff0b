"""``fedkd compare`` from words to table: plan, run with progress, print, draw."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fedkd.errors import ConfigError
from fedkd.plugins import load_plugins
from fedkd.reports.comparison.plan import ComparedRun, plan, run_plan
from fedkd.reports.comparison.table import rows
from fedkd.reports.comparison.target import target_of
from fedkd.reports.comparison.text import as_csv, as_json, as_latex, as_table
from fedkd.reports.figures import ACCURACY, BITS, comparison_figure


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a comparison is run and shown.

    Attributes:
        out: where run folders are looked for and made.
        jobs: runs at once; 0 means one a core.
        at: comma list of rounds to read besides the end; empty means the end alone.
        metric: the summary key that the end is compared by.
        to_accuracy: a share that the time and energy to are told as well; empty for none.
        as_json: one JSON list as the last line instead of a table.
        latex: a LaTeX table instead.
        csv: CSV instead.
        figure: where to draw the curves; None means ``OUT/compare.png``.
    """

    out: Path
    jobs: int
    at: str
    metric: str
    to_accuracy: str
    as_json: bool
    latex: bool
    csv: bool
    figure: Path | None


def compare(arguments: Sequence[str], options: Options, *, plugins: Sequence[str]) -> None:
    """Run what is missing and print the table on standard output, progress on standard error."""
    at, target = _rounds(options.at), target_of(options.to_accuracy)
    load_plugins(plugins)
    planned = plan(arguments, plugins=plugins)
    done: list[ComparedRun] = []
    for run in run_plan(planned, out=options.out, jobs=options.jobs):
        done.append(run)
        _tell(run, len(done), len(planned.runs))
    table = rows(done, metric=options.metric, at=at, to_accuracy=target)
    if options.as_json:
        sys.stdout.write(json.dumps(as_json(table)) + "\n")
    elif options.latex:
        sys.stdout.write(as_latex(table) + "\n")
    elif options.csv:
        sys.stdout.write(as_csv(table))
    else:
        Console().print(as_table(table))
    curve = BITS if BITS.name in options.metric else ACCURACY
    where = options.figure or options.out / "compare.png"
    picture = comparison_figure(done, where, curve=curve)
    sys.stderr.write(f"picture: {picture}\n")


def _tell(run: ComparedRun, n_done: int, n_all: int) -> None:
    how = "kept" if run.reused else f"{run.summary['seconds']:.0f} s"
    accuracy, bits = (run.summary.get(k) for k in ("accuracy_mean", "bits_per_character_mean"))
    figure = "" if accuracy is None else f"  accuracy {accuracy:.3f}"
    figure += "" if bits is None else f"  bits per character {bits:.3f}"
    sys.stderr.write(
        f"[{n_done}/{n_all}] {run.scenario} {run.method} seed {run.seed}{figure}  ({how})\n"
    )
    sys.stderr.flush()


def _rounds(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--at: {text!r} is no comma list of rounds, such as 10,20") from None
