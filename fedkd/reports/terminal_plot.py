"""Draw the accuracy curves of a run in the terminal.

The library plotext (https://github.com/piccolomo/plotext) has one figure for the whole process;
it is cleared before and after use.
"""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import Any

from fedkd.run_files import read_metrics, read_summary

HEIGHT = 18
"""Lines of text."""
LEAST_WIDTH = 40
JOINED = ("teacher", "server", "mean client")
FULL = {"mean client": "●", "worst client": "▾", "best client": "▴", "teacher": "◆", "server": "■"}
PLAIN = {"mean client": "*", "worst client": "v", "best client": "^", "teacher": "t", "server": "s"}
FRAME = str.maketrans("─│┌┐└┘├┤┬┴┼╭╮╰╯", "-|+++++++++++++")


def curves(run_dir: Path, width: int | None = None, *, ascii_only: bool | None = None) -> str:
    """Return a drawing of accuracy, in percent, by round.

    Args:
        run_dir: a run folder.
        width: columns of text; None takes the terminal's.
        ascii_only: no characters outside ASCII; None: when standard output is not UTF-8.

    Raises:
        ConfigError: ``run_dir`` is no run folder.
    """
    summary, table = read_summary(run_dir), read_metrics(run_dir)
    lines = _lines(table)
    if not lines:
        return "no accuracy was measured"
    if ascii_only is None:
        ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    marks = PLAIN if ascii_only else FULL
    columns = max(width or shutil.get_terminal_size().columns, LEAST_WIDTH)
    drawing = _drawn(lines, marks, columns)
    title = f"{summary['scenario']}, {summary['method']}, seed {summary['seed']}"
    legend = "   ".join(f"{marks[name]} {name}" for name in lines)
    text = f"{title}: accuracy in percent by round\n{drawing}\n{legend}"
    if not ascii_only:
        return text
    return text.translate(FRAME).encode("ascii", "replace").decode()


def _lines(table: Any) -> dict[str, Any]:
    """Return percent by round for every curve that was measured, lowest layer first."""
    clients = table[table["name"] == "accuracy"].groupby("round")["value"]
    curves = {"worst client": clients.min(), "best client": clients.max()}
    for name in ("teacher", "server"):
        measured = table[table["name"] == f"{name}_accuracy"]
        curves[name] = measured.groupby("round")["value"].mean()
    curves["mean client"] = clients.mean()
    return {name: 100 * curve for name, curve in curves.items() if len(curve)}


def _drawn(lines: dict[str, Any], marks: dict[str, str], columns: int) -> str:
    import plotext

    top = 10 * math.ceil(max(max(curve) for curve in lines.values()) / 10 + 1e-9)
    last = max(max(curve.index) for curve in lines.values())
    figure: Any = plotext.figure
    figure.clear()
    plotext.terminal.limit(False, False)
    try:
        figure.plot_size(columns, HEIGHT)
        _set_ticks(figure.ruler("y"), 0, min(top, 100), 10 if top <= 60 else 20)
        _set_ticks(figure.ruler("x"), 1, max(last, 2), max(1, math.ceil(last / 10)))
        for name, curve in lines.items():
            x, y = [int(n) for n in curve.index], [float(v) for v in curve]
            signal = figure.signal(x, y, marker=marks[name])
            figure.draw(signal.lines(name in JOINED))
        return str(figure.build().string(colorless=True)).rstrip("\n")
    finally:
        figure.clear()
        plotext.terminal.limit(True, True)


def _set_ticks(ruler: Any, low: int, high: int, step: int) -> None:
    places = list(range(low, high + 1, step))
    ruler.lim(low, high)
    ruler.ticks(places, [str(place) for place in places])
