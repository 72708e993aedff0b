"""Turn matplotlib figures into pictures for reports: SVG inside a page, PNG for paper.

In a page, axes and text take the page's own colors, so that pictures are readable in the dark;
text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree  # nosec B405  # reads what matplotlib wrote

from fedkd.reports.page import Html, clean
from fedkd.reports.page_style import BLUE, INK, LINE
from fedkd.reports.plotting import STYLE

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
THEMED = {INK: "currentColor", LINE: "var(--line)", BLUE: "var(--blue)"}
PAPER_DPI = 160
BROAD = 4.5
"""Inches; wider pictures are not squeezed into a phone's width but scroll there."""
REM_PER_INCH = 10
"""How wide a picture becomes at most, in the page's unit of letters."""
FOR_REPORTS: Any = STYLE | {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.titlecolor": INK,
    "grid.color": LINE,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedkd",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


LONGEST_NAME = 32
"""Letters of a name that a picture has room for; tables and captions have all of them."""
WIDTH = 640
"""Pixels at plotting's resolution: readable on a phone."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """A figure and its words.

    Attributes:
        name: unique in a report; letters, digits and hyphens.
        figure: matplotlib's.
        description: what is seen, for those who cannot see it.
        caption: what to read from it.
    """

    name: str
    figure: Any
    description: str
    caption: str


@contextmanager
def drawing() -> Generator[None]:
    """Set the style of reports while figures are drawn and saved.

    Dollar signs are no mathematics there: names come from scenarios and clients.
    """
    from matplotlib import rc_context

    with rc_context(FOR_REPORTS):
        yield


def svg(figure: Any, *, name: str, description: str) -> Html:
    """Return a figure as SVG to stand in a page.

    Args:
        figure: drawn inside :func:`drawing`.
        name: unique in the page, letters, digits and hyphens.
        description: what is seen, for those who cannot see it.
    """
    file = io.BytesIO()
    with drawing():
        _lay_out(figure)
        figure.savefig(file, format="svg", transparent=True)
    root = ElementTree.fromstring(file.getvalue())  # nosec B314  # matplotlib wrote it
    for child in list(root):
        if child.tag == f"{{{SVG}}}metadata":
            root.remove(child)
    _rename(root, f"{name}-")
    title = ElementTree.Element(f"{{{SVG}}}title")
    title.text = clean(description)
    root.insert(0, title)
    root.set("role", "img")
    root.set("aria-label", clean(description))
    for side in ("width", "height"):
        root.attrib.pop(side, None)
    inches = float(figure.get_size_inches()[0])
    root.set("style", f"max-width:{REM_PER_INCH * inches:g}rem")
    if inches > BROAD:
        root.set("class", "broad")
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Html(ElementTree.tostring(root, encoding="unicode"))


def png(figure: Any) -> bytes:
    """Return a figure as PNG on white."""
    file = io.BytesIO()
    with drawing():
        _lay_out(figure)
        figure.savefig(file, format="png", dpi=PAPER_DPI, facecolor="white")
    return file.getvalue()


def _lay_out(figure: Any) -> None:
    """Work a figure's layout out once; it takes as long as drawing it."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def _rename(root: ElementTree.Element, prefix: str) -> None:
    """Give every id a prefix, and let the style's colors follow the page."""
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, prefix + value)
            elif key == f"{{{XLINK}}}href" and value.startswith("#"):
                element.set(key, f"#{prefix}{value[1:]}")
            else:
                named = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", value)
                for color, of_page in THEMED.items():
                    named = named.replace(color, of_page)
                element.set(key, named)


def short(name: object) -> str:
    """Return a name as far as a picture has room for it."""
    words = clean(name)
    return words if len(words) <= LONGEST_NAME else words[: LONGEST_NAME - 1] + "…"
