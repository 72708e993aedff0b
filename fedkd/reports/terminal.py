"""What a person sees of a run in the terminal: progress while it goes on, a table at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedkd.results import RoundResult
from fedkd.scenario import Scenario


def show_progress(scenario: Scenario, stream: Iterator[RoundResult]) -> None:
    """Take a run's stream to its end: a live bar on a terminal, else one JSON line a round."""
    if sys.stderr.isatty():
        _show_bar(scenario, stream)
        return
    for result in stream:
        line: dict[str, Any] = {"round": result.round, **_headline(result)}
        if result.left_out:
            line["left_out"] = result.left_out
        if result.ended:
            line["ended"] = result.ended
        if result.failures:
            line["failures"] = [f"client {f.client}: {f.reason}" for f in result.failures]
        sys.stderr.write(json.dumps(line) + "\n")
        sys.stderr.flush()


def _show_bar(scenario: Scenario, stream: Iterator[RoundResult]) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(scenario.name, total=scenario.rounds, figures="setting up")
        for result in stream:
            figures = "  ".join(f"{k} {v:.3f}" for k, v in _headline(result).items())
            progress.update(task, completed=result.round, figures=figures)
            if result.left_out:
                progress.console.print(
                    f"round {result.round}: privacy budget spent, left out: clients "
                    f"{', '.join(map(str, result.left_out))}",
                    style="yellow",
                )
            if result.ended:
                progress.console.print(f"ended: {result.ended}", style="yellow")
            for failure in result.failures:
                progress.console.print(
                    f"round {result.round}: client {failure.client} failed: {failure.reason}",
                    style="red",
                )


def _headline(result: RoundResult) -> dict[str, Any]:
    figures: dict[str, float] = {}
    client = [m.value for m in result.measurements if m.name == "accuracy"]
    if client:
        figures["accuracy"] = round(sum(client) / len(client), 4)
    bits = [m.value for m in result.measurements if m.name == "bits_per_character"]
    if bits:
        figures["bits"] = round(sum(bits) / len(bits), 4)
    for m in result.measurements:
        if m.name in {"teacher_accuracy", "server_accuracy", "coverage", "seconds"}:
            figures[m.name.removesuffix("_accuracy")] = round(m.value, 4)
    return figures


def summary_table(summary: dict[str, Any]) -> Table:
    """Return the short table that a run ends with."""
    title = f"{summary['scenario']} · {summary['method']} · seed {summary['seed']}"
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, value in _lines(summary):
        table.add_row(label, value)
    return table


def _lines(s: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "rounds", f"{s['rounds_done']} of {s['rounds']}  ({s['status']})"
    yield (
        "client models",
        f"mean {share(s['accuracy_mean'])}  worst {share(s['accuracy_worst'])}"
        "  after the last round's training",
    )
    if "knowledge" in s["bytes_by_kind"]["up"]:
        yield "", f"mean {share(s['accuracy_distilled_mean'])}  after a closing distillation pass"
    elif "update" in s["bytes_by_kind"]["up"]:
        yield "", f"mean {share(s['accuracy_distilled_mean'])}  with the last average loaded"
    yield "", f"mean {share(s['accuracy_local_mean'])}  on each client's own held-out examples"
    yield from _bits(s)
    if s["coverage"] is not None:
        yield "teacher (consensus)", f"{share(s['teacher_accuracy'])}  on the proxy rows it covers"
    if s["server_accuracy"] is not None:
        yield "server model", share(s["server_accuracy"])
    if s["coverage"] is not None:
        yield "coverage", f"{share(s['coverage'])} of proxy rows have a keeper"
        yield "keepers per row", f"{s['keepers_per_row']:.2f}"
    for direction in ("up", "down"):
        kinds = s["bytes_by_kind"][direction]
        parts = ", ".join(f"{kind} {size(n)}" for kind, n in sorted(kinds.items()))
        yield f"bytes {direction}", f"{size(s[f'bytes_{direction}'])}  ({parts})"
    per_round = s["seconds_per_round"]
    rate = "" if per_round is None else f"  ({per_round:.2f} a round)"
    yield "seconds", f"{s['seconds']:.1f}{rate}"
    if s.get("virtual_seconds") is not None:
        energy = "" if s["energy_j"] is None else f"  {s['energy_j']:.4g} J of all devices"
        yield "virtual seconds", f"{s['virtual_seconds']:.4g}{energy}"
    if s["left_out"]:
        yield "left out", f"{s['left_out']} times, privacy budget spent (fedkd privacy explain)"
    if s.get("ended_early"):
        yield "ended early", s["ended_early"]
    if s["failures"]:
        yield "failures", f"{s['failures']} (events.jsonl names client, round and reason)"
    yield "privacy", s["privacy_claim"]
    for warning in s["privacy_warnings"]:
        yield "", warning
    yield "run folder", s["run_dir"]
    yield "result hash", s["result_hash"]


def _bits(s: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a text run is judged by; nothing for other runs."""
    if s.get("bits_per_character_mean") is None:
        return
    yield "bits per character", f"mean {s['bits_per_character_mean']:.3f}  (lower is better)"
    for key, after in (
        ("bits_per_character_distilled_mean", "mean {:.3f}  after a closing distillation pass"),
        ("bits_per_character_local_mean", "mean {:.3f}  on each client's own held-out text"),
        ("server_bits_per_character", "{:.3f}  server model"),
    ):
        if s.get(key) is not None:
            yield "", after.format(s[key])


def share(value: float | None) -> str:
    """Return a share in [0, 1] in percent, ``-`` for None."""
    return "-" if value is None else f"{100 * value:.1f} %"


def size(n: int) -> str:
    """Return a number of bytes in kB or MB."""
    return f"{n / 1e6:.2f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"


def print_summary(summary: dict[str, Any]) -> None:
    """Print the table on standard output."""
    Console().print(summary_table(summary))


def print_names(rows: list[tuple[str, str]]) -> None:
    """Print ``name  one line`` rows."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, line in rows:
        table.add_row(name, line)
    Console().print(table)
