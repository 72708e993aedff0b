"""Write the report of a run, finished or broken off: one HTML file that needs no network.

What it says comes from the run's folder alone (``run_report_facts``); the look is ``page``'s.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedkd.errors import ConfigError
from fedkd.reports.page import (
    NOTHING,
    Html,
    Section,
    Tone,
    box,
    bullets,
    details,
    facts,
    heading,
    joined,
    page,
    paragraph,
    side_by_side,
)
from fedkd.reports.run.confusion import confusion_table, speaks
from fedkd.reports.run.facts import UNFINISHED, RunFacts, gather
from fedkd.reports.run.figures import (
    bytes_figure,
    confusion_figure,
    curve_figures,
    proxy_figures,
)
from fedkd.reports.run.tables import (
    bytes_table,
    client_table,
    failure_table,
    left_out_table,
    refused_table,
    result_tiles,
    round_table,
    stood_in_table,
)

FILE = "report.html"
FOLDED_FROM = 20
"""The table of more clients is folded away."""
HASHES = (
    "Equal scenarios give equal result hashes on one kind of machine with the same versions. "
    "The hash covers every measurement and everything the server sent."
)
UNSEEDED = (
    "The privacy noise was drawn from the operating system: no run can repeat this one's hash."
)
BROKEN = (
    "The command runs the whole scenario, whose result hash differs from that of the part above."
)
UNREPEATABLE = {
    "interrupted": BROKEN,
    "stopped": BROKEN,
    UNFINISHED: "The command needs a summary to compare with: this run has none.",
}
STATUS = {
    "interrupted": "This run was interrupted",
    "stopped": "This run stopped with an error",
    UNFINISHED: "This run has not ended properly",
}


def write_run_report(run: Path) -> Path:
    """Write ``RUN/report.html`` anew and return its path; ConfigError when that cannot be done."""
    path = run / FILE
    text = run_page(gather(run))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}") from None
    return path


def run_page(found: RunFacts) -> str:
    """Return the report as an HTML document."""
    s, talks = found.summary, speaks(found.scenario)
    sections = [
        Section(title="Results", body=_results(found)),
        Section(title="Privacy", body=_privacy(found)),
        *([Section(title="Proxy set and consensus", body=_consensus(found))] if talks else []),
        Section(
            title="Bytes",
            body=side_by_side(bytes_table(s), bytes_figure(found.table)),
        ),
        Section(title="Clients", body=_clients(found)),
        Section(title="Rounds", body=_rounds(found)),
        Section(title="Repeat this run", body=_repeat(found)),
        Section(title="Scenario", body=_scenario(found)),
    ]
    return page(
        f"Run report: {s['scenario']}, {s['method']}, seed {s['seed']}",
        sections,
        lead=_lead(found),
        footer=f"Made by fedkd {found.head['versions'].get('fedkd', '')} from {s['run_dir']}.",
    )


def _lead(found: RunFacts) -> Html:
    s = found.summary
    description = found.scenario.description
    asked = found.scenario.cohort or s["clients"]
    setting = (
        f"{s['clients']} clients, {asked} in each round; {s['rounds_done']} of {s['rounds']} "
        f"rounds done; status: {s['status']}."
    )
    ended = f"It ended early: {s['ended_early']}." if s["ended_early"] else ""
    notes = [note for note in (*found.notes, ended) if note]
    head = STATUS.get(s["status"], "About this run")
    if s["status"] in STATUS:
        done = f"Everything below is as of round {s['rounds_done']} of {s['rounds']}."
        notes = [*notes, done]
    return joined(
        paragraph(description, soft=True) if description else Html(""),
        paragraph(setting),
        box(head, bullets(notes), tone=Tone.MILD) if notes else Html(""),
    )


def _results(found: RunFacts) -> Html:
    figures = curve_figures(found.table)
    return joined(
        result_tiles(found.summary),
        side_by_side(*figures) if figures else paragraph("No accuracy was measured."),
    )


def _privacy(found: RunFacts) -> Html:
    s = found.summary
    rows: list[tuple[str, object]] = [("level of the claim", f"{s['privacy_level']} of 3")]
    if s["epsilon"] is not None:
        rows += [("epsilon, delta", f"{s['epsilon']:.4g}, {s['delta']:g}"), ("unit", s["unit"])]
    for key, name in (("neighboring", "neighboring relation"), ("trust", "trusted")):
        if found.privacy[key]:
            rows.append((name, found.privacy[key]))
    claim = box(
        s["privacy_claim"],
        bullets(s["privacy_warnings"]),
        tone=Tone.PLAIN if s["privacy_level"] >= 2 else Tone.MILD,
    )
    run = shlex.quote(s["run_dir"])
    more = f"fedkd privacy explain {run} lists every release; fedkd audit {run} attacks the run."
    return joined(
        paragraph("This sentence, and no stronger one, may be said about the run:"),
        claim,
        facts(rows),
        paragraph(more, soft=True),
    )


def _consensus(found: RunFacts) -> Html:
    pictures = proxy_figures(found.table)
    parts = [side_by_side(*pictures)] if pictures else []
    parts.append(heading("Consensus against the truth"))
    if found.confusion is None:
        return joined(*parts, paragraph(found.no_confusion))
    known = "True classes of proxy rows are known in a simulation only; no participant saw them."
    return joined(
        *parts,
        paragraph(known, soft=True),
        side_by_side(confusion_figure(found.confusion)),
        details("The same in numbers", confusion_table(found.confusion)),
    )


def _clients(found: RunFacts) -> Html:
    clients = client_table(found)
    if len(found.scenario.participants()) > FOLDED_FROM:
        clients = details(f"{len(found.scenario.participants())} clients, one by one", clients)
    parts = [clients]
    failures, left_out = failure_table(found.rounds), left_out_table(found.rounds)
    parts.append(failures or paragraph("No client failed."))
    parts += [stood_in_table(found.rounds), refused_table(found.rounds)]
    parts.append(left_out or paragraph("No client was left out for its privacy budget."))
    return joined(*parts)


def _rounds(found: RunFacts) -> Html:
    done = sum(result.round > 0 for result in found.rounds)
    return details(f"Set-up and {done} rounds, one by one", round_table(found.rounds))


def _repeat(found: RunFacts) -> Html:
    s, head = found.summary, found.head
    seconds, peak = s["seconds"], s["peak_rss_mb"]
    pairs: list[tuple[str, object]] = [
        ("command", f"fedkd replay {shlex.quote(s['run_dir'])}"),
        ("result hash", s["result_hash"]),
        ("scenario hash", s["scenario_hash"]),
        ("seed", s["seed"]),
        ("platform", ", ".join(f"{k} {v}" for k, v in head["platform"].items())),
        ("versions", ", ".join(f"{k} {v}" for k, v in head["versions"].items())),
        ("wall time", NOTHING if seconds is None else f"{seconds:.1f} s"),
        ("peak memory", NOTHING if peak is None else f"{peak:.0f} MiB"),
    ]
    return joined(
        facts(pairs, code=("command", "result hash", "scenario hash")),
        paragraph(HASHES, soft=True),
        paragraph(UNSEEDED) if found.scenario.seeds.noise == "secret" else Html(""),
        paragraph(UNREPEATABLE[s["status"]]) if s["status"] in UNREPEATABLE else Html(""),
    )


def _scenario(found: RunFacts) -> Html:
    keys = list(_flat(found.head["scenario"], ""))
    return details(
        f"The resolved scenario, {len(keys)} keys", facts(keys, code=[name for name, _ in keys])
    )


def _flat(tree: dict[str, Any], path: str) -> Iterator[tuple[str, object]]:
    """Yield every leaf of a scenario as an override's key and value."""
    for key, value in sorted(tree.items()):
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", "null" if value is None else value
