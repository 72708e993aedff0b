"""Drawing parts that all figures share: style, colours, names of lines beside their ends.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any kind
of colour vision can tell apart; lines carry their names, so that grey prints can be read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DPI = 150
LINES = ("-", "--", "-.", ":")
"""Drawn over one another, equal curves all stay visible."""
FONT_SIZE = 9
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": FONT_SIZE,
    "grid.color": "#E5E5E5",
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class End:
    """The name of a line, to be written beside its last point."""

    x: float
    y: float
    text: str
    color: str


def new_figure(width: int, height: int) -> Any:
    """Return an empty figure, sides in pixels; it belongs to nobody but the caller."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")


def finish(axes: Any, title: str) -> None:
    """Give a panel its title and an axis of whole rounds."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim(low - 1, high + 1)


def write_ends(axes: Any, ends: Sequence[End]) -> None:
    """Write names right of the last points; :func:`settle` moves them apart."""
    for end in ends:
        axes.annotate(
            end.text,
            (end.x, end.y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=end.color,
            annotation_clip=False,
        )


def _spread(axes: Any) -> None:
    """Move names that stand at the same x apart, upwards, then back down into the panel."""
    from matplotlib.text import Annotation

    step = 1.2 * FONT_SIZE * DPI / 72
    top = axes.bbox.y1 - step / 2
    names = [text for text in axes.texts if isinstance(text, Annotation)]
    for x in {text.xy[0] for text in names}:
        texts = [text for text in names if text.xy[0] == x]
        places = [float(axes.transData.transform(text.xy)[1]) for text in texts]
        order = sorted(range(len(texts)), key=places.__getitem__)
        wanted = list(places)
        for below, above in pairwise(order):
            wanted[above] = max(wanted[above], wanted[below] + step)
        ceiling = top
        for n in reversed(order):
            wanted[n] = min(wanted[n], ceiling)
            ceiling = wanted[n] - step
        for text, place, goal in zip(texts, places, wanted, strict=True):
            text.set_position((7, (goal - place) * 72 / DPI))


def marker(points: Any) -> str:
    """Return the mark of single points: none when there are many."""
    return "o" if len(points) <= 30 else ""


def settle(figure: Any) -> None:
    """Fix the layout of a finished figure and move the names of its lines apart."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        _spread(axes)


def save(figure: Any, path: Path) -> Path:
    """Write a PNG with the names of lines apart; return ``path``."""
    settle(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI)
    return path
