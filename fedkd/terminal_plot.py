"""Draw the accuracy curves of a run in the terminal.

The library plotext (https://github.com/piccolomo/plotext) has one figure for the whole process;
it is cleared before and after use.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from fedkd.run_folder import read_metrics, read_summary

HEIGHT = 18
"""Lines of text."""
LEAST_WIDTH = 40
FULL = {"client": "●", "worst": "▾", "best": "▴", "teacher": "◆", "server": "■"}
PLAIN = {"client": "*", "worst": "v", "best": "^", "teacher": "t", "server": "s"}
FRAME = str.maketrans("─│┌┐└┘├┤┬┴┼╭╮╰╯", "-|+++++++++++++")


def curves(run_dir: Path, width: int | None = None, *, ascii_only: bool | None = None) -> str:
    """Return a drawing of accuracy, in percent, by round.

    Args:
        run_dir: a run folder.
        width: columns of text; None takes the terminal's.
        ascii_only: no other characters and no colours; None when standard output is not UTF-8.

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
    curves = {"worst": clients.min(), "best": clients.max()}
    for name in ("teacher", "server"):
        measured = table[table["name"] == f"{name}_accuracy"]
        curves[name] = measured.groupby("round")["value"].mean()
    curves["client"] = clients.mean()
    return {name: 100 * curve for name, curve in curves.items() if len(curve)}


def _drawn(lines: dict[str, Any], marks: dict[str, str], columns: int) -> str:
    import plotext

    figure: Any = plotext.figure
    figure.clear()
    try:
        figure.theme("colorless")
        figure.plot_size(columns, HEIGHT)
        for name, curve in lines.items():
            x, y = [int(n) for n in curve.index], [float(v) for v in curve]
            signal = figure.signal(x, y, marker=marks[name])
            figure.draw(signal)
        return str(figure.build().string()).rstrip("\n")
    finally:
        figure.clear()
