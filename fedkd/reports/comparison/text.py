"""Write the table of a comparison for people and programs: terminal, LaTeX, CSV, plain data.

Every function takes the rows of one comparison, at least one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from fedkd.reports.comparison.table import Row

NOTHING = "-"
NAMES = ("scenario", "method")
TO_TARGET = ("reached", "rounds", "virtual s", "J")
SHARES = ("accuracy", "coverage", "keep_precision", "keep_recall")
LATEX = str.maketrans(
    {c: "\\" + c for c in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as plain data; shares stay in [0, 1]."""
    return [asdict(row) for row in rows]


def as_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV with a header; run folders are joined by ``;``, None is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(asdict(row) | {"runs": ";".join(row.runs)})
    return file.getvalue()


def as_table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for the terminal; shares in percent."""
    table = Table(title=_caption(rows), title_justify="left")
    header, body = _cells(rows)
    for name in header:
        table.add_column(name, justify="left" if name in NAMES else "right")
    for before, (row, cells) in zip([None, *rows], zip(rows, body, strict=True), strict=False):
        if before is not None and before.scenario != row.scenario:
            table.add_section()
        table.add_row(*(Text(cell) for cell in cells))
    return table


def as_latex(rows: Sequence[Row]) -> str:
    """Return the rows as a ``tabular`` for the package booktabs; shares in percent."""
    header, body = _cells(rows)
    lines = [
        f"% {_caption(rows)}",
        rf"\begin{{tabular}}{{{''.join('l' if name in NAMES else 'r' for name in header)}}}",
        r"\toprule",
        " & ".join(name.translate(LATEX) for name in header) + r" \\",
        r"\midrule",
    ]
    for before, (row, cells) in zip([None, *rows], zip(rows, body, strict=True), strict=False):
        if before is not None and before.scenario != row.scenario:
            lines.append(r"\midrule")
        escaped = [cell.translate(LATEX).replace("±", r"$\pm$") for cell in cells]
        lines.append(" & ".join(_signs(cell) for cell in escaped) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _caption(rows: Sequence[Row]) -> str:
    first = rows[0]
    unit = ", percent" if _is_share(first.metric) else ""
    return (
        f"{first.metric}{unit}: mean ± 95 % t-interval over seeds; "
        f"difference from {first.against}, paired by seed"
    )


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return header and body as text; scenario and round only where there are several."""
    scenarios = len({row.scenario for row in rows}) > 1
    rounds = any(row.round is not None for row in rows)
    targets = any(row.n_reached is not None for row in rows)
    header = ["scenario"] * scenarios + ["method"] + ["round"] * rounds
    body = [
        [
            *[row.scenario] * scenarios,
            row.method,
            *["end" if row.round is None else str(row.round)] * rounds,
            str(row.n_seeds),
            _with_error(row.mean, row.ci_high, row.metric),
            _with_error(row.diff, row.diff_high, row.metric, sign="+"),
            _p_text(row.p),
            *(_to_target(row) if targets else []),
        ]
        for row in rows
    ]
    return [*header, "seeds", "mean", "difference", "p", *(TO_TARGET if targets else ())], body


def _to_target(row: Row) -> list[str]:
    """Return what reaching the accuracy took, on average over the runs that did."""
    if row.n_reached is None:
        return [NOTHING] * len(TO_TARGET)
    figures = (row.rounds_to, row.seconds_to, row.joules_to)
    return [
        f"{row.n_reached} of {row.n_seeds}",
        *(NOTHING if figure is None else f"{figure:.4g}" for figure in figures),
    ]


def _with_error(mean: float | None, high: float | None, metric: str, *, sign: str = "") -> str:
    if mean is None:
        return NOTHING
    scale, digits = (100.0, "z.1f") if _is_share(metric) else (1.0, "z.4g")
    text = format(scale * mean, sign + digits)
    return text if high is None else f"{text} ± {format(scale * (high - mean), digits)}"


def _p_text(p: float | None) -> str:
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _signs(cell: str) -> str:
    """Set a leading sign as mathematics, so that a minus is no hyphen."""
    if cell[:1] in "+-<" and cell[1:2].isdigit():
        return f"${cell[0]}${cell[1:]}"
    return "--" if cell == NOTHING else cell


def _is_share(metric: str) -> bool:
    return any(metric.startswith(name) or metric.endswith("_accuracy") for name in SHARES)
