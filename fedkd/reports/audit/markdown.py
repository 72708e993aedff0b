"""Write an audit as a short Markdown text that fits into a comment on a change."""

from __future__ import annotations

import re
from typing import Any

from fedkd.reports.audit.claims import claims_box
from fedkd.reports.audit.facts import title
from fedkd.reports.audit.grid import Grid
from fedkd.reports.audit.run_tables import comparison_grid, ledger_grid, reduction_grid
from fedkd.reports.audit.tables import channel_grid, extrapolation_grid, not_run_grid
from fedkd.reports.audit.words import footnotes, interval, percent, plain
from fedkd.reports.page import clean

HASHES = {
    "scenario hash": "scenario_hash",
    "result hash": "result_hash",
    "transcript": "transcript_sha256",
}
ENTITIES = {c: f"&#{ord(c)};" for c in "&<>|@"}


def audit_markdown(result: dict[str, Any]) -> str:
    """Return the summary; the full report is the HTML page beside it."""
    run, verdict, said = result["run"], result["verdict"], claims_box(result)
    numbers = [
        f"**{words(each.name)}**: {words(each.value)} ({words(each.more)})" for each in said.tiles
    ]
    parts = [
        f"## Privacy audit: {words(title(run))}",
        f"**Verdict: {words(verdict['grade'])}.** {words(verdict['sentence'])}",
        _folded("What this does not tell", _list(verdict["limits"])),
        f"**What may be claimed: {words(said.head)}.**",
        f"> {words(said.sentence)}",
        _list(numbers, raw=True),
        _list(said.notes),
        *_comparison(result),
        _table(channel_grid(result)),
        _table(extrapolation_grid(result)),
        _table(not_run_grid(result)),
        _table(ledger_grid(result)),
        _folded("Statistical notes", _list(footnotes(result))),
        ", ".join(f"{name} `{_code(run[key])}`" for name, key in HASHES.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def words(value: object) -> str:
    """Return text that Markdown shows as it is: no markup, no mention, no link, no HTML."""
    text = "".join(ENTITIES.get(c, c) for c in clean(value))
    text = re.sub(r"(?<!&)#|[\\`*\[\]~!]", lambda found: f"\\{found[0]}", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def _comparison(result: dict[str, Any]) -> list[str]:
    if result["comparison"] is None:
        return []
    ends = interval(result["exposure_reduction_ci"], share=True)
    why = f" ({ends})" if ends else ""
    reason = result["exposure_reduction_reason"]
    return [
        f"Compared with {words(title(result['comparison']['against']))}: exposure above the floor "
        f"that is gone: **{percent(result['exposure_reduction'])}**{why}"
        + (f"; {words(reason)}" if reason else ""),
        _table(reduction_grid(result)),
        _table(comparison_grid(result)),
    ]


def _table(grid: Grid) -> str:
    if not grid.rows:
        return ""
    ruler = ["---:" if name in grid.numbers else "---" for name in grid.header]
    lines = [[_cell(cell) for cell in line] for line in (grid.header, *grid.rows)]
    lines.insert(1, ruler)
    cells = [f"| {' | '.join(line)} |" for line in lines]
    return f"{words(grid.caption)}:\n\n" + "\n".join(cells)


def _cell(value: str) -> str:
    first, _, rest = value.partition("\n")
    return f"{words(first)}<br>{words(rest)}" if rest else words(first)


def _list(items: Any, *, raw: bool = False) -> str:
    return "\n".join(f"- {item if raw else words(item)}" for item in items)


def _folded(summary: str, body: str) -> str:
    if not body:
        return ""
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _code(value: object) -> str:
    return clean(plain(value)).replace("`", "'")
