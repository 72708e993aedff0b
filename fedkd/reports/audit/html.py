"""Write an audit as one HTML page that opens anywhere, without network or scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedkd.reports.audit import figures, run_tables, tables
from fedkd.reports.audit.claims import ClaimsBox, claims_box
from fedkd.reports.audit.facts import identity, threats, title
from fedkd.reports.audit.grid import Grid
from fedkd.reports.audit.words import GLOSSARY, footnotes, interval, percent
from fedkd.reports.page import (
    Html,
    Section,
    Tile,
    Tone,
    box,
    bullets,
    details,
    facts,
    figure,
    heading,
    joined,
    page,
    paragraph,
    side_by_side,
    table,
    tiles,
)
from fedkd.reports.pictures import Picture, svg

CODES = ("scenario hash", "result hash", "transcript", "data", "model", "run folder")
OPEN_ROWS = 12
"""Longer tables are folded, all but those of what attacks found."""
LIMITS, OPEN_LIMITS = "What this does not tell", 6
NO_REDUCTION = "how much exposure is gone cannot be told"


def audit_page(result: dict[str, Any], drawn: figures.Drawn) -> str:
    """Return the page; every number of ``result`` may be None."""
    sections = [
        Section(title="What may be claimed", body=_claims(claims_box(result))),
        Section(title="Verdict", body=_verdict(result["verdict"])),
        Section(title="Channel by channel", body=_channels(result)),
    ]
    optional = (
        ("ROC curves", _pictures(drawn.rocs, beside=True)),
        ("Canaries", _canaries(result, drawn)),
        ("Label distributions", _labels(result, drawn)),
        ("With and without protection", _comparison(result, drawn)),
        ("Privacy budget", _ledger(result, drawn)),
        ("What the models are good for", _utility(result)),
    )
    sections += [Section(title=name, body=body) for name, body in optional if body]
    sections += [
        Section(title="The run", body=_run(result)),
        Section(title="Statistical notes", body=bullets(footnotes(result), numbered=True)),
        Section(title="Words used here", body=facts(GLOSSARY)),
    ]
    headline = f"Privacy audit: {title(result['run'])}"
    return page(headline, sections, lead=_lead(result), footer=_footer(result))


def _lead(result: dict[str, Any]) -> Html:
    return paragraph(result["run"]["description"], soft=True)


def _footer(result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    took = "" if seconds is None else f" The audit took {seconds:.1f} seconds."
    return f"All numbers are in audit.json beside this page.{took}"


def _claims(said: ClaimsBox) -> Html:
    inside = joined(paragraph(said.sentence), tiles(said.tiles), bullets(said.notes))
    return box(said.head, inside, tone=said.tone)


def _verdict(verdict: dict[str, Any]) -> Html:
    parts, limits = [paragraph(verdict["sentence"])], verdict["limits"]
    if len(limits) > OPEN_LIMITS:
        parts.append(details(f"{LIMITS} ({len(limits)} points)", bullets(limits)))
    elif limits:
        parts += [paragraph(f"{LIMITS}:"), bullets(limits)]
    return box(str(verdict["grade"]).capitalize(), joined(*parts), tone=Tone.PLAIN)


def _channels(result: dict[str, Any]) -> Html:
    notes = [
        f"{row['channel']}, {row['adversary']}, {row['attack']}: {row['note']}"
        for row in result["channels"]
        if row["note"]
    ]
    ran = _grid(tables.channel_grid(result)) or paragraph("No attack ran.")
    return joined(
        ran,
        _grid(tables.figures_grid(result)),
        _grid(tables.not_run_grid(result)),
        details("What the attacks say about themselves", bullets(notes)) if notes else Html(""),
    )


def _canaries(result: dict[str, Any], drawn: figures.Drawn) -> Html:
    planted = result["canaries"]
    if not planted:
        return Html("")
    grid = tables.canaries_grid(result)
    return joined(
        _grid(tables.levels_grid(result)),
        _grid(tables.extrapolation_grid(result)),
        _pictures(drawn.exposures, beside=True),
        details(f"The {len(planted)} canaries that were planted", _grid(grid)),
    )


def _labels(result: dict[str, Any], drawn: figures.Drawn) -> Html:
    if not drawn.labels:
        return Html("")
    shown = (
        "The closer the two bars, the more the channel tells about what a client holds. Of every "
        f"attack the {figures.MOST_CLIENTS} best guessed clients are drawn."
    )
    return joined(
        paragraph(shown),
        _pictures(drawn.labels, beside=True),
        _grid(tables.labels_grid(result)),
    )


def _comparison(result: dict[str, Any], drawn: figures.Drawn) -> Html:
    other = result["comparison"]
    if other is None:
        return Html("")
    ends = interval(result["exposure_reduction_ci"], share=True)
    gone = Tile(
        name="exposure above the floor that is gone",
        value=percent(result["exposure_reduction"]),
        more=f"95 %: {ends}" if ends else str(result["exposure_reduction_reason"] or NO_REDUCTION),
    )
    return joined(
        facts([("this run", title(result["run"])), ("other run", title(other["against"]))]),
        tiles([gone]),
        _pictures(drawn.comparison, beside=False),
        _grid(run_tables.reduction_grid(result)),
        _grid(run_tables.comparison_grid(result)),
        details("The other run", facts(identity(other["against"]), code=CODES)),
    )


def _ledger(result: dict[str, Any], drawn: figures.Drawn) -> Html:
    if not result["ledger"]["clients"]:
        return paragraph("Nothing was entered in the ledger: no release of this run is counted.")
    rounds = run_tables.ledger_rounds_grid(result)
    return joined(
        _grid(run_tables.ledger_grid(result)),
        _pictures(drawn.ledger, beside=False),
        details("Round by round", _grid(rounds)) if len(rounds.header) > 1 else Html(""),
    )


def _utility(result: dict[str, Any]) -> Html:
    measured = run_tables.utility_facts(result)
    return facts(measured) if measured else Html("")


def _run(result: dict[str, Any]) -> Html:
    return joined(
        facts(identity(result["run"]), code=CODES),
        heading("Threat model"),
        facts(threats(result)),
    )


def _grid(grid: Grid) -> Html:
    if not grid.rows:
        return Html("")
    made = table(grid.header, grid.rows, caption=grid.caption, numbers=grid.numbers)
    found = grid.header[0] == "channel" or "measure" in grid.header
    if len(grid.rows) > OPEN_ROWS and not found:
        return details(f"{grid.caption} ({len(grid.rows)} rows)", made)
    return made


def _pictures(pictures: Sequence[Picture], *, beside: bool) -> Html:
    made = [
        figure(svg(each.figure, name=each.name, description=each.description), caption=each.caption)
        for each in pictures
    ]
    return side_by_side(*made) if beside and len(made) > 1 else joined(*made)
