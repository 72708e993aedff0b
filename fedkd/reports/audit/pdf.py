"""Write an audit as a PDF to print and file, with reportlab (https://www.reportlab.com)."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedkd.reports.audit import figures, run_tables, tables
from fedkd.reports.audit.claims import claims_box
from fedkd.reports.audit.facts import identity, threats, title
from fedkd.reports.audit.grid import Grid
from fedkd.reports.audit.words import GLOSSARY, footnotes, interval, percent
from fedkd.reports.page import Tone, clean
from fedkd.reports.pictures import Picture, png

SANS, BOLD = "fedkd-sans", "fedkd-sans-bold"
MARGIN = 45.0
"""Points, on all sides of an A4 page."""
INK, SOFT, LINE = "#1c2024", "#555d66", "#c9ced4"
TONES = {Tone.GOOD: "#1b7a43", Tone.BAD: "#b3261e", Tone.MILD: "#8a5a00", Tone.PLAIN: SOFT}
WORDY = {"reason", "remark", "what was planted", "measure", "figure", "attack"}
"""Columns that take more room."""


def audit_pdf(result: dict[str, Any], drawn: figures.Drawn, path: Path) -> Path:
    """Write the report on A4 pages; return ``path``."""
    from reportlab.lib.pagesizes import A4
    from reportlab.platypus import SimpleDocTemplate

    _register_fonts()
    headline = f"Privacy audit: {title(result['run'])}"
    document = SimpleDocTemplate(
        str(path), pagesize=A4, leftMargin=MARGIN, rightMargin=MARGIN, topMargin=MARGIN,
        bottomMargin=MARGIN, title=clean(headline), author="fedkd", invariant=1,
    )  # fmt: skip
    story = [
        _words(headline, "title"),
        *_front(result),
        *_heading("Channel by channel"),
        *_grid(tables.channel_grid(result)),
        *_grid(tables.figures_grid(result)),
        *_grid(tables.not_run_grid(result)),
        *_pictures("ROC curves", drawn.rocs),
        *_pictures("Canaries", drawn.exposures),
        *_grid(tables.levels_grid(result)),
        *_grid(tables.extrapolation_grid(result)),
        *_pictures("Label distributions", drawn.labels),
        *_grid(tables.labels_grid(result)),
        *_comparison(result, drawn),
        *_ledger(result, drawn),
        *_back(result),
    ]
    document.build(story, onFirstPage=_number, onLaterPages=_number)
    return path


def _front(result: dict[str, Any]) -> list[Any]:
    said, verdict = claims_box(result), result["verdict"]
    numbers = [(each.name, f"{each.value}   {each.more}") for each in said.tiles]
    return [
        _words(result["run"]["description"], "soft"),
        *_heading("What may be claimed"),
        _words(said.head, said.tone.value),
        _words(said.sentence),
        *_facts(numbers),
        *[_words(f"• {note}") for note in said.notes],
        *_heading("Verdict"),
        _words(str(verdict["grade"]).capitalize(), "strong"),
        _words(verdict["sentence"]),
        *[_words(f"• {limit}") for limit in verdict["limits"]],
    ]


def _comparison(result: dict[str, Any], drawn: figures.Drawn) -> list[Any]:
    if result["comparison"] is None:
        return []
    ends = interval(result["exposure_reduction_ci"], share=True)
    gone = f"{percent(result['exposure_reduction'])}   {ends}"
    return [
        *_pictures("With and without protection", drawn.comparison, alone=True),
        *_facts(
            [
                ("this run", title(result["run"])),
                ("other run", title(result["comparison"]["against"])),
                ("exposure above the floor that is gone", gone),
                ("remark", result["exposure_reduction_reason"] or "none"),
            ]
        ),
        *_grid(run_tables.reduction_grid(result)),
        *_grid(run_tables.comparison_grid(result)),
    ]


def _ledger(result: dict[str, Any], drawn: figures.Drawn) -> list[Any]:
    return [
        *_pictures("Privacy budget", drawn.ledger, alone=True),
        *(
            _grid(run_tables.ledger_grid(result))
            or [_words("Nothing was entered in the ledger: no release of this run is counted.")]
        ),
        *_grid(run_tables.ledger_rounds_grid(result)),
    ]


def _back(result: dict[str, Any]) -> list[Any]:
    utility = run_tables.utility_facts(result)
    notes = [f"{n}. {note}" for n, note in enumerate(footnotes(result), start=1)]
    return [
        *(_heading("What the models are good for") if utility else []),
        *_facts(utility),
        *_heading("The run"),
        *_facts([*identity(result["run"]), *threats(result)]),
        *_heading("Statistical notes"),
        *[_words(note) for note in notes],
        *_heading("Words used here"),
        *_facts(GLOSSARY),
    ]


def _register_fonts() -> None:
    """Register the fonts that matplotlib ships: they know more letters than PDF's own."""
    import matplotlib
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pdfmetrics.registerFont(TTFont(SANS, folder / "DejaVuSans.ttf"))
    pdfmetrics.registerFont(TTFont(BOLD, folder / "DejaVuSans-Bold.ttf"))


def _style(kind: str) -> Any:
    from reportlab.lib.colors import HexColor
    from reportlab.lib.styles import ParagraphStyle

    sizes = {"title": 15.0, "heading": 12.0, "cell": 6.6, "small": 6.0, "number": 6.6}
    size = sizes.get(kind, 8.5)
    colors = {"soft": SOFT, "small": SOFT} | {tone.value: color for tone, color in TONES.items()}
    strong = {"title", "heading", "strong"} | {tone.value for tone in TONES}
    return ParagraphStyle(
        kind,
        fontName=BOLD if kind in strong else SANS,
        fontSize=size,
        leading=1.35 * size,
        textColor=HexColor(colors.get(kind, INK)),
        alignment=2 if kind == "number" else 0,
        spaceBefore=12 if kind == "heading" else 0,
        spaceAfter=0 if kind in {"cell", "number"} else 4,
        keepWithNext=1 if kind == "heading" else 0,
    )


def _words(value: object, kind: str = "") -> Any:
    from reportlab.platypus import Paragraph

    return Paragraph(html.escape(clean(value)), _style(kind or "body"))


def _cell(value: str, kind: str) -> Any:
    from reportlab.platypus import Paragraph

    first, _, rest = value.partition("\n")
    below = f'<br/><font size="5.6" color="{SOFT}">{html.escape(clean(rest))}</font>'
    return Paragraph(html.escape(clean(first)) + (below if rest else ""), _style(kind))


def _heading(words: str) -> list[Any]:
    return [_words(words, "heading")]


def _facts(pairs: Sequence[tuple[str, object]]) -> list[Any]:
    if not pairs:
        return []
    rows = [[_words(name, "soft"), _words(value)] for name, value in pairs]
    return [_table(rows, [0.27, 0.73], ruled=False)]


def _grid(grid: Grid) -> list[Any]:
    if not grid.rows:
        return []
    kinds = ["number" if name in grid.numbers else "cell" for name in grid.header]
    rows = [
        [_cell(cell, kind) for cell, kind in zip(line, kinds, strict=True)]
        for line in [list(grid.header), *grid.rows]
    ]
    shares = [1.9 if name in WORDY else 1.0 for name in grid.header]
    total = sum(shares)
    caption = _words(grid.caption, "soft")
    caption.keepWithNext = 1
    return [caption, _table(rows, [share / total for share in shares], ruled=True)]


def _table(
    rows: list[list[Any]], shares: Sequence[float], *, ruled: bool, split: bool = True
) -> Any:
    from reportlab.lib.colors import HexColor
    from reportlab.lib.pagesizes import A4
    from reportlab.platypus import Table

    room = A4[0] - 2 * MARGIN
    lines = [("LINEBELOW", (0, 0), (-1, -1), 0.4, HexColor(LINE))] if ruled else []
    return Table(
        rows,
        colWidths=[share * room for share in shares],
        repeatRows=1 if ruled else 0,
        splitInRow=int(split),
        spaceAfter=8,
        style=[
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 2),
            ("RIGHTPADDING", (0, 0), (-1, -1), 4),
            ("TOPPADDING", (0, 0), (-1, -1), 2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
            *lines,
        ],
    )


def _pictures(heading: str, pictures: Sequence[Picture], *, alone: bool = False) -> list[Any]:
    """Return a heading and pictures; without pictures only the heading, where it stands alone."""
    if not pictures:
        return _heading(heading) if alone else []
    cells = [[_image(each.figure), _words(each.caption, "soft")] for each in pictures]
    if len(cells) == 1:
        return [*_heading(heading), *cells[0]]
    rows = [[*cells[n : n + 2], ""][:2] for n in range(0, len(cells), 2)]
    return [*_heading(heading), _table(rows, [0.5, 0.5], ruled=False, split=False)]


def _image(figure: Any) -> Any:
    """Return a figure as a picture of half a page's width."""
    from reportlab.lib.pagesizes import A4
    from reportlab.platypus import Image

    wide, high = figure.get_size_inches()
    scale = min((A4[0] - 2 * MARGIN - 16) / 2 / wide, 0.8 * (A4[1] - 2 * MARGIN) / high)
    return Image(io.BytesIO(png(figure)), width=scale * wide, height=scale * high, hAlign="LEFT")


def _number(canvas: Any, document: Any) -> None:
    canvas.setFont(SANS, 7)
    canvas.drawRightString(document.pagesize[0] - MARGIN, MARGIN / 2, f"page {document.page}")
