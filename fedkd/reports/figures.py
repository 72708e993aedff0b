"""Draw a run, or a comparison of runs, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedkd.reports.comparison import ComparedRun
from fedkd.reports.comparison_table import interval
from fedkd.reports.plotting import (
    LINES,
    PALETTE,
    STYLE,
    End,
    finish,
    marker,
    new_figure,
    save,
    write_ends,
)
from fedkd.run_folder import read_metrics, read_summary

RATES = {
    "coverage": "rows with a keeper",
    "keep_precision": "keeps of own classes",
    "keep_recall": "own classes kept",
}
THIN_LINES = 10
"""Up to so many clients have a line each."""
LEAST_SPAN = 10.0
"""Percent points that an axis shows at least, so that noise does not fill a panel."""
LOG_FROM = 20.0
"""Bytes are drawn on a logarithmic axis when the largest is so many times the smallest."""


def run_figure(run_dir: Path) -> Path:
    """Draw accuracies, bytes and the filter's rates by round; 1200 x 800 pixels.

    Returns:
        ``run_dir/figures/curves.png``.

    Raises:
        ConfigError: ``run_dir`` is no run folder.
    """
    from matplotlib import rc_context

    summary, table = read_summary(run_dir), read_metrics(run_dir)
    with rc_context(STYLE):
        figure = new_figure(1200, 800)
        grid = figure.add_gridspec(2, 2, height_ratios=(1.5, 1))
        _draw_accuracy(figure.add_subplot(grid[0, :]), table)
        rates = [name for name in RATES if name in set(table["name"])]
        _draw_bytes(figure.add_subplot(grid[1, 0] if rates else grid[1, :]), table)
        if rates:
            _draw_rates(figure.add_subplot(grid[1, 1]), table, rates)
        title = f"{summary['scenario']}, {summary['method']}, seed {summary['seed']}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        return save(figure, run_dir / "figures" / "curves.png")


def comparison_figure(runs: Sequence[ComparedRun], path: Path) -> Path:
    """Draw the clients' mean accuracy by round, one line a method, one panel a scenario.

    The band is the 95 % t-interval over seeds; rounds that not all seeds measured are left out.

    Args:
        runs: of one comparison, in any order, at least one.
        path: where the PNG goes; 750 pixels high.

    Returns:
        ``path``.
    """
    from matplotlib import rc_context

    ordered = sorted(runs, key=lambda run: run.place)
    scenarios = list(dict.fromkeys(run.scenario for run in ordered))
    methods = list(dict.fromkeys(run.method for run in ordered))
    with rc_context(STYLE):
        figure = new_figure(150 + 900 * len(scenarios), 750)
        panels: Any = figure.subplots(1, len(scenarios), sharey=True, squeeze=False)[0]
        for axes, scenario in zip(panels, scenarios, strict=True):
            cells = [
                [r for r in ordered if (r.scenario, r.method) == (scenario, m)] for m in methods
            ]
            ends = [e for n, cell in enumerate(cells) if cell for e in _draw_method(axes, cell, n)]
            finish(axes, f"{scenario}: mean accuracy of client models, percent")
            write_ends(axes, ends)
        _limit_percent(panels[0])
        n_seeds = len({run.seed for run in ordered})
        note = f"{n_seeds} seeds; bands are 95 % t-intervals" if n_seeds > 1 else "1 seed"
        figure.suptitle(note, x=0.01, ha="left", fontsize=9, color="#555555")
        return save(figure, path)


def _draw_accuracy(axes: Any, table: Any) -> None:
    clients = table[table["name"] == "accuracy"].pivot(
        index="round", columns="client", values="value"
    )
    mean = 100 * clients.mean(axis="columns")
    ends: list[End] = []
    if len(clients):
        low, high = 100 * clients.min(axis="columns"), 100 * clients.max(axis="columns")
        axes.fill_between(mean.index, low, high, color=PALETTE[0], alpha=0.12, linewidth=0)
        if 1 < len(clients.columns) <= THIN_LINES:
            axes.plot(clients.index, 100 * clients, color=PALETTE[0], alpha=0.35, linewidth=0.6)
        axes.plot(mean.index, mean, color=PALETTE[0], marker=marker(mean), markersize=4)
        ends.append(End(mean.index[-1], mean.iloc[-1], "clients (mean)", PALETTE[0]))
    for name, color, text in (
        ("teacher_accuracy", PALETTE[1], "teacher"),
        ("server_accuracy", PALETTE[2], "server model"),
    ):
        ends += _draw_line(axes, table, name, text=text, style={"color": color})
    band = "; band from worst to best client" if len(clients.columns) > 1 else ""
    finish(axes, f"Accuracy after each round's training, percent{band}")
    _limit_percent(axes)
    write_ends(axes, ends)


def _draw_bytes(axes: Any, table: Any) -> None:
    """Draw one line a kind and direction: solid to the server, dashed to the clients."""
    from matplotlib.ticker import NullFormatter

    sizes = table[table["name"].str.startswith("bytes_")]
    kinds = sorted({name.partition(".")[2] for name in sizes["name"]})
    ends: list[End] = []
    for n, kind in enumerate(kinds):
        for direction, line, mark in (("up", "-", "↑"), ("down", "--", "↓")):
            values = sizes[sizes["name"] == f"bytes_{direction}.{kind}"]
            if len(values):
                color = PALETTE[n % len(PALETTE)]
                x, y = values["round"].to_numpy(), values["value"].to_numpy() / 1000
                axes.plot(x, y, line, color=color, marker=marker(x), markersize=3.5)
                ends.append(End(x[-1], y[-1], f"{kind} {mark}", color))
    if sizes["value"].max() > LOG_FROM * sizes["value"].min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,g}")
    finish(axes, "kB a round, all clients (↑ up, ↓ down)")
    write_ends(axes, ends)


def _draw_rates(axes: Any, table: Any, names: Sequence[str]) -> None:
    ends: list[End] = []
    for n, name in enumerate(names):
        style = {"color": PALETTE[n + 2], "linestyle": LINES[n]}
        ends += _draw_line(axes, table, name, text=RATES[name], style=style)
    finish(axes, "Filter on the proxy set, percent")
    axes.set_ylim(-4, 104)
    write_ends(axes, ends)


def _draw_line(axes: Any, table: Any, name: str, *, text: str, style: Any) -> list[End]:
    """Draw the mean over clients of a share; return its end, or nothing when not measured."""
    mean = 100 * table[table["name"] == name].groupby("round")["value"].mean()
    if not len(mean):
        return []
    axes.plot(mean.index, mean, marker=marker(mean), markersize=4, **style)
    return [End(mean.index[-1], mean.iloc[-1], text, style["color"])]


def _draw_method(axes: Any, cell: Sequence[ComparedRun], n: int) -> list[End]:
    """Draw the ``n``-th method; return the end of its line, or nothing when not measured."""
    color, line = PALETTE[n % len(PALETTE)], LINES[n % len(LINES)]
    by_seed: list[Any] = []
    for run in cell:
        table = read_metrics(Path(run.summary["run_dir"]))
        measured = table[table["name"] == "accuracy"]
        by_seed.append(100 * measured.groupby("round")["value"].mean())
    common = sorted(set.intersection(*(set(curve.index) for curve in by_seed)))
    if not common:
        return []
    points = [interval([curve[n_round] for curve in by_seed]) for n_round in common]
    means = [mean for mean, _, _ in points]
    axes.plot(common, means, line, color=color, marker=marker(common), markersize=4)
    if len(cell) > 1:
        low, high = [p[1] for p in points], [p[2] for p in points]
        axes.fill_between(common, low, high, color=color, alpha=0.12, linewidth=0)
    return [End(common[-1], means[-1], cell[0].method, color)]


def _limit_percent(axes: Any) -> None:
    low, high = axes.get_ylim()
    missing = max(0.0, LEAST_SPAN - (high - low)) / 2
    axes.set_ylim(max(low - missing, -2), min(high + missing, 102))
