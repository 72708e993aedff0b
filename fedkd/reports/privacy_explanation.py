"""What a run released and what may be said about it, for a privacy officer in the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedkd.privacy.claims import Claim, claim
from fedkd.privacy.events import to_plain
from fedkd.privacy.ledger import Ledger
from fedkd.privacy.releases import Guard, guard
from fedkd.privacy.spans import to_spans
from fedkd.run_files import LEDGER, read_cohorts, read_scenario
from fedkd.scenario import Scenario


def explanation(run: Path) -> dict[str, Any]:
    """Return what a run released, by client, and what may be said about it.

    Keys: ``claim``, ``claim_level``, ``epsilon``, ``delta``, ``unit``, ``neighboring``, ``trust``,
    ``warnings``, ``target_epsilon``, and ``clients``: for each ``client``, ``epsilon`` (null
    where nothing bounds it), ``delta``, ``unit`` and ``events``, each with its ``count``.

    Raises:
        ConfigError: no run folder, or a damaged ledger.
    """
    scenario, ledger = read_scenario(run), Ledger(path=run / LEDGER)
    said, kept = claim(scenario, ledger, read_cohorts(run)), guard(scenario)
    return {
        "claim": said.sentence,
        "claim_level": said.level,
        **_facts(said),
        "target_epsilon": scenario.privacy.target_epsilon,
        "clients": [_client(ledger, client, kept, scenario) for client in ledger.clients()],
    }


def _facts(said: Claim) -> dict[str, Any]:
    return {
        "epsilon": said.epsilon,
        "delta": said.delta,
        "unit": said.unit,
        "neighboring": said.neighboring,
        "trust": said.trust,
        "warnings": said.warnings,
    }


def _client(ledger: Ledger, client: int, kept: Guard | None, scenario: Scenario) -> dict[str, Any]:
    delta = scenario.privacy.delta
    spent = math.inf if kept is None else ledger.epsilon(client, *kept, delta=delta)
    alike = Counter(charge.release for charge in ledger.all_of(client))
    return {
        "client": client,
        "epsilon": spent if math.isfinite(spent) else None,
        "delta": delta,
        "unit": None if kept is None else kept[0].value,
        "events": [
            {
                "what": release.what,
                "unit": release.unit.value,
                "channel": release.channel.value,
                "count": count,
                "event": to_plain(release.event),
            }
            for release, count in alike.items()
        ],
    }


def print_explanation(found: dict[str, Any]) -> None:
    """Print the sentence, then the ledger by client."""
    console = Console()
    console.print(f"[bold]{found['claim']}[/bold]  (level {found['claim_level']})")
    for label in ("unit", "neighboring", "trust"):
        if found[label]:
            console.print(f"{_LABELS[label]}: {found[label]}")
    if found["target_epsilon"] is not None:
        console.print(f"limit: epsilon {found['target_epsilon']:g}")
    for warning in found["warnings"]:
        console.print(f"note: {warning}")
    table = Table(title="what each client released", title_justify="left")
    for column in ("clients", "epsilon", "release", "protects", "seen by", "times", "event"):
        table.add_column(column)
    for clients, row in _grouped(found["clients"]):
        spent = "unbounded" if row["epsilon"] is None else f"{row['epsilon']:.4g}"
        for n, event in enumerate(row["events"]):
            head = (clients, spent) if n == 0 else ("", "")
            seen = "server and clients" if event["channel"] == "upload" else "consensus readers"
            table.add_row(
                *head,
                event["what"],
                event["unit"],
                seen,
                str(event["count"]),
                event_text(event["event"]),
            )
    console.print(table)


_LABELS = {"unit": "unit of privacy", "neighboring": "neighboring relation", "trust": "trusted"}


def _grouped(rows: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return clients with equal ledgers together, as ``0, 3-9``."""
    groups: dict[str, tuple[list[int], dict[str, Any]]] = {}
    for row in rows:
        key = repr((row["epsilon"], row["events"]))
        groups.setdefault(key, ([], row))[0].append(row["client"])
    return [(ranges(clients), row) for clients, row in groups.values()]


def ranges(clients: Sequence[int]) -> str:
    """Return ascending client ids as ``0, 3-9``."""
    spans = to_spans(clients)
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)


def event_text(event: dict[str, Any]) -> str:
    """Return a stored event in words and numbers."""
    fields = {key: value for key, value in event.items() if key != "kind"}
    if event["kind"] == "uncounted":
        return f"unbounded: {fields['reason']}"
    numbers = ", ".join(f"{key} {value:.4g}" for key, value in fields.items())
    return f"{event['kind']} ({numbers})"
