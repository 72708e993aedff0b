"""A table of a report as plain cells, before it becomes HTML, Markdown or paper."""

from __future__ import annotations

from dataclasses import dataclass

Row = list[str]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table as text; a line break in a cell puts what follows below.

    Attributes:
        caption: what it shows.
        header: names of the columns, the first of which names the rows.
        rows: one cell a column.
        numbers: columns to be set to the right.
    """

    caption: str
    header: tuple[str, ...]
    rows: list[Row]
    numbers: frozenset[str]


def below(first: object, second: str) -> str:
    """Return a cell of two lines, or of one when there is no second."""
    first = str(first).replace("\n", " ")
    return f"{first}\n{second}" if second else first
