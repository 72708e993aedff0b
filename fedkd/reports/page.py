"""Make one self-contained HTML page out of titles, texts, tables and pictures.

A page needs no network, no script and no other file. Every function escapes the text it is given;
what is already HTML has the type :data:`Html`, and only these functions and
:mod:`fedkd.reports.pictures` make it.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from fedkd.reports.page_style import CSS

Html = NewType("Html", str)
"""Text that may stand in a page as it is."""
NOTHING = "\u2013"
"""An en dash, for what was not measured."""
BIDI = {chr(n) for n in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STACK_FROM = 5
"""A table of so many columns becomes a list of cards on a phone; narrower ones stay tables."""


class Tone(StrEnum):
    """What a box's color says; its words must say it too."""

    GOOD = "good"
    BAD = "bad"
    MILD = "mild"
    PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page with a heading and an entry in the contents."""

    title: str
    body: Html


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One large number with its name, and a line below."""

    name: str
    value: str
    more: str = ""


def clean(value: object) -> str:
    """Return text without what no page may show: control and bidirectional characters."""
    text = str(value).replace("\r", " ").replace("\n", " ").replace("\t", " ")
    kept = ["�" if unicodedata.category(c) in ("Cc", "Cs") or c in BIDI else c for c in text]
    return "".join(kept)


def text(value: object) -> Html:
    """Return text as HTML, quotes escaped too, so that it may stand in an attribute."""
    return Html(html.escape(clean(value), quote=True))


def joined(*parts: Html) -> Html:
    """Return pieces of HTML one after the other."""
    return Html("\n".join(part for part in parts if part))


def paragraph(words: object, *, soft: bool = False) -> Html:
    """Return a paragraph; soft ones are set back."""
    return Html(f'<p class="soft">{text(words)}</p>' if soft else f"<p>{text(words)}</p>")


def heading(words: object) -> Html:
    """Return a heading inside a section."""
    return Html(f"<h3>{text(words)}</h3>")


def bullets(items: Sequence[object], *, numbered: bool = False) -> Html:
    """Return a list, or nothing when there are no items."""
    if not items:
        return Html("")
    tag = "ol" if numbered else "ul"
    return Html(f"<{tag}>" + "".join(f"<li>{text(item)}</li>" for item in items) + f"</{tag}>")


def facts(pairs: Sequence[tuple[str, object]], *, code: Collection[str] = ()) -> Html:
    """Return names and values below one another; those named in ``code`` in fixed width."""
    lines = [
        f"<dt>{text(name)}</dt><dd>"
        + (f"<code>{text(value)}</code>" if name in code else text(value))
        + "</dd>"
        for name, value in pairs
    ]
    return Html(f'<dl class="facts">{"".join(lines)}</dl>')


def tiles(items: Sequence[Tile]) -> Html:
    """Return large numbers side by side, below one another on a phone."""
    parts = [
        f'<div class="tile"><div class="name">{text(item.name)}</div>'
        f'<div class="value">{text(item.value)}</div>'
        f'<div class="more">{text(item.more)}</div></div>'
        for item in items
    ]
    return Html(f'<div class="tiles">{"".join(parts)}</div>')


def box(head: str, body: Html, *, tone: Tone) -> Html:
    """Return a framed part; ``head`` must say in words what the color says."""
    return Html(f'<div class="box {tone.value}"><p class="head">{text(head)}</p>{body}</div>')


def details(summary: str, body: Html) -> Html:
    """Return a part that is folded away until asked for."""
    return Html(f"<details><summary>{text(summary)}</summary>{body}</details>")


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str,
    numbers: Collection[str] = (),
) -> Html:
    r"""Return a table; its first column names the rows.

    Args:
        header: names of the columns.
        rows: cells as text; what follows a line break (``\n``) is set below, smaller.
        caption: what the table shows; also what a screen reader calls it.
        numbers: columns to be set to the right.
    """
    places = ["number" if name in numbers else "" for name in header]
    titles = [
        f'<th scope="col" role="columnheader"{_class(c)}>{text(n)}</th>'
        for n, c in zip(header, places, strict=True)
    ]
    stack = ' class="stack"' if len(header) >= STACK_FROM else ""
    body = "".join(f'<tr role="row">{_cells(row, header, places)}</tr>' for row in rows)
    return Html(
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table role="table"{stack}><caption>{text(caption)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{"".join(titles)}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


def _cells(row: Sequence[str], header: Sequence[str], places: Sequence[str]) -> str:
    says_so = row[0].startswith(header[0])  # "client 3" needs no "client" before it
    label = f'data-label="{"" if says_so else text(header[0])}"'
    cells = [f'<th scope="row" role="rowheader" {label}>{_cell(row[0])}</th>']
    for value, name, place in list(zip(row, header, places, strict=True))[1:]:
        label = f'data-label="{text(name)}"'
        cells.append(f'<td role="cell" {label}{_class(place)}><span>{_cell(value)}</span></td>')
    return "".join(cells)


def _cell(value: str) -> str:
    first, _, rest = value.partition("\n")
    below = f'<span class="below">{text(rest)}</span>' if rest else ""
    return f"{text(first)}{below}"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def figure(picture: Html, *, caption: str) -> Html:
    """Return a picture of :func:`fedkd.reports.pictures.svg` with words below it."""
    return Html(
        f'<figure><div class="scroll">{picture}</div><figcaption>{text(caption)}</figcaption>'
        "</figure>"
    )


def side_by_side(*figures: Html) -> Html:
    """Return figures beside one another where there is room, each half as wide as the page."""
    return Html(f'<div class="pictures">{"".join(figures)}</div>')


def page(title: str, sections: Sequence[Section], *, lead: Html, footer: str) -> str:
    """Return a whole HTML document.

    Args:
        title: of the window and of the page.
        sections: in order; their titles make the contents.
        lead: what stands above the contents.
        footer: last line.
    """
    anchors = _anchors([section.title for section in sections])
    links = [
        f'<li><a href="#{anchor}">{text(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    ]
    parts = [
        f'<section id="{anchor}"><h2>{text(section.title)}</h2>\n{section.body}</section>'
        for anchor, section in zip(anchors, sections, strict=True)
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{text(title)}</title><style>{CSS}</style></head><body>",
            f"<header><h1>{text(title)}</h1>\n{lead}",
            f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav></header>',
            f"<main>{''.join(parts)}</main>",
            f"<footer>{text(footer)}</footer></body></html>\n",
        ]
    )


def _anchors(titles: Sequence[str]) -> list[str]:
    """Return one name a title, letters and digits only, no two the same."""
    names: list[str] = []
    for n, title in enumerate(titles):
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"
        names.append(f"{name}-{n}" if name in names else name)
    return names
