"""What a person sees of an audit in the terminal: progress, the verdict, a row for each attack."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from fedkd.reports.audit.words import at_least, p_value

WORSE = "worse"
Told = Callable[[int, int, dict[str, Any]], None]


@contextmanager
def told_progress(*, quiet: bool) -> Generator[Told | None]:
    """Give out what shows an audit's progress on standard error: a bar, or a JSON line each."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield _tell_line
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("attacks", total=None)

            def tell(done: int, total: int, row: dict[str, Any]) -> None:
                progress.update(task, completed=done, total=total)
                progress.console.print(
                    f"{row['attack']}: {row['status']} ({row['seconds']:.1f} s)", markup=False
                )

            yield tell


def _tell_line(done: int, total: int, row: dict[str, Any]) -> None:
    facts = {key: row[key] for key in ("attack", "status")}
    line = {"done": done, "of": total, **facts, "seconds": round(row["seconds"], 2)}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def print_audit(found: dict[str, Any], paths: dict[str, Path]) -> None:
    """Print the verdict, the claim, and what each attack reached."""
    console, verdict = Console(), found["verdict"]
    console.print(f"[bold]{verdict['grade']}[/bold]: {escape(verdict['sentence'])}")
    console.print(f"formal claim: {escape(found['claim']['sentence'])}")
    table = Table(
        box=SIMPLE,
        caption="TPR at 1 % false alarms; epsilon certified, of the most that could be; exposure "
        "at the most insertions",
        caption_justify="left",
    )
    for column in ("attack", "channel"):
        table.add_column(column)
    for column in ("AUC", "TPR", "epsilon", "bits"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found["channels"]:
        if row["status"] == "ran":
            auc, tpr, bits = (_short(row[k]) for k in ("auc", "tpr_at_fpr_01", "exposure_mean"))
            bound = f"{at_least(row['eps_lb'])} of {at_least(row['eps_ceiling'])}"
            bound = "-" if row["eps_lb"] is None else bound
            table.add_row(row["attack"], row["channel"], auc, tpr, bound, bits)
    console.print(table)
    for row in found["channels"]:
        if row["status"] != "ran":
            console.print(f"{row['attack']}: {row['status']}: {row['reason']}", markup=False)
        elif not row["decides"]:
            why = f"does not decide the verdict: {row['decides_reason']}"
            console.print(f"{row['attack']}: {why}", markup=False)
    if found["comparison"] is not None:
        console.print(_reduction(found))
    for name, path in paths.items():
        console.print(f"{name}: {path}", markup=False)


def _reduction(found: dict[str, Any]) -> str:
    value, interval = found["exposure_reduction"], found["exposure_reduction_ci"]
    if value is None:
        return escape(f"exposure reduction: none, because {found['exposure_reduction_reason']}")
    ends = "" if interval is None else f" ({interval[0]:.0%} to {interval[1]:.0%})"
    return f"exposure above the floor is reduced by {value:.0%}{ends}"


def print_changes(rows: Sequence[dict[str, Any]], worse: Sequence[dict[str, Any]]) -> None:
    """Print what changed between two audits, the significant ones for the worse marked."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in ("attack", "figure"):
        table.add_column(column, no_wrap=True)
    for column in ("first", "second", "change", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=len(WORSE))
    for row in rows:
        cells = [_figure(row[key]) for key in ("there", "here", "change")]
        mark = WORSE if row in worse else ""
        table.add_row(row["attack"], row["figure"], *cells, p_value(row["p"]), mark)
    Console().print(table)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
