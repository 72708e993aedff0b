"""Draw a run, or a comparison of runs, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.reports.comparison.plan import ComparedRun
from fedkd.reports.comparison.table import interval
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
from fedkd.run_files import read_metrics, read_summary


@dataclass(frozen=True)
class Curve:
    """A figure of merit that clients and server are measured by in every round.

    Attributes:
        name: of the clients' measurements; ``teacher_`` and ``server_`` before it are the others.
        text: for people, with the unit.
        scale: from the stored number to what is drawn.
    """

    name: str
    text: str
    scale: float

    @property
    def percent(self) -> bool:
        """Whether the axis ends at 0 and 100."""
        return self.scale == 100


ACCURACY = Curve("accuracy", "accuracy, percent", 100.0)
BITS = Curve("bits_per_character", "bits per character", 1.0)
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
    """Draw accuracies (of text, bits), bytes and the filter's rates by round; 1200 x 800 pixels.

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
        curve = BITS if BITS.name in set(table["name"]) else ACCURACY
        draw_curve(figure.add_subplot(grid[0, :]), table, curve)
        rates = [name for name in RATES if name in set(table["name"])]
        draw_bytes(figure.add_subplot(grid[1, 0] if rates else grid[1, :]), table)
        if rates:
            draw_rates(figure.add_subplot(grid[1, 1]), table, rates)
        title = f"{summary['scenario']}, {summary['method']}, seed {summary['seed']}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        return save(figure, run_dir / "figures" / "curves.png")


def comparison_figure(runs: Sequence[ComparedRun], path: Path, *, curve: Curve = ACCURACY) -> Path:
    """Draw the clients' mean by round, one line a method, one panel a scenario.

    The band is the 95 % t-interval over seeds; rounds that not all seeds measured are left out.

    Args:
        runs: of one comparison, in any order, at least one.
        path: where the PNG goes; 750 pixels high.
        curve: what is drawn.

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
            ends = [
                end
                for n, cell in enumerate(cells)
                if cell
                for end in _draw_method(axes, cell, n, curve=curve)
            ]
            finish(axes, f"{scenario}: client models' mean {curve.text}")
            write_ends(axes, ends)
        if curve.percent:
            _limit_percent(panels[0])
        n_seeds = len({run.seed for run in ordered})
        note = f"{n_seeds} seeds; bands are 95 % t-intervals" if n_seeds > 1 else "1 seed"
        figure.suptitle(note, x=0.01, ha="left", fontsize=9, color="#555555")
        return save(figure, path)


def draw_curve(axes: Any, table: Any, curve: Curve, *, thin: int = THIN_LINES) -> None:
    """Draw the clients' mean, up to ``thin`` single clients, teacher and server by round."""
    measured = table[table["name"] == curve.name]
    clients = measured.pivot(index="round", columns="client", values="value")
    mean = curve.scale * clients.mean(axis="columns")
    clients = curve.scale * clients
    ends: list[End] = []
    if len(clients):
        low, high = clients.min(axis="columns"), clients.max(axis="columns")
        axes.fill_between(mean.index, low, high, color=PALETTE[0], alpha=0.12, linewidth=0)
        if 1 < len(clients.columns) <= thin:
            axes.plot(clients.index, clients, color=PALETTE[0], alpha=0.35, linewidth=0.6)
        axes.plot(mean.index, mean, color=PALETTE[0], marker=marker(mean), markersize=4)
        ends.append(End(mean.index[-1], mean.iloc[-1], "clients (mean)", PALETTE[0]))
    for whose, color, text in (
        ("teacher", PALETTE[1], "teacher"),
        ("server", PALETTE[2], "server model"),
    ):
        values = curve.scale * _by_round(table, f"{whose}_{curve.name}")
        ends += _draw_line(axes, values, text=text, style={"color": color})
    band = "; band from worst to best client" if len(clients.columns) > 1 else ""
    finish(axes, f"After each round's training: {curve.text}{band}")
    if curve.percent:
        _limit_percent(axes)
    write_ends(axes, ends)


def draw_bytes(axes: Any, table: Any) -> None:
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


def draw_rates(axes: Any, table: Any, names: Sequence[str]) -> None:
    """Draw some of :data:`RATES` by round, in percent."""
    ends: list[End] = []
    for n, name in enumerate(names):
        style = {"color": PALETTE[n + 2], "linestyle": LINES[n]}
        values = 100 * _by_round(table, name)
        ends += _draw_line(axes, values, text=RATES[name], style=style)
    finish(axes, "Filter on the proxy set, percent")
    axes.set_ylim(-4, 104)
    write_ends(axes, ends)


def _by_round(table: Any, name: str) -> Any:
    """Return the mean over clients of a measurement, by round."""
    return table[table["name"] == name].groupby("round")["value"].mean()


def _draw_line(axes: Any, values: Any, *, text: str, style: Any) -> list[End]:
    """Draw a series by round; return its end, or nothing when it is empty."""
    if not len(values):
        return []
    axes.plot(values.index, values, marker=marker(values), markersize=4, **style)
    return [End(values.index[-1], values.iloc[-1], text, style["color"])]


def _draw_method(axes: Any, cell: Sequence[ComparedRun], n: int, *, curve: Curve) -> list[End]:
    """Draw the ``n``-th method; return the end of its line, or nothing when not measured."""
    color, line = PALETTE[n % len(PALETTE)], LINES[n % len(LINES)]
    by_seed: list[Any] = []
    for run in cell:
        table = read_metrics(Path(run.summary["run_dir"]))
        by_seed.append(curve.scale * _by_round(table, curve.name))
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
