"""What a scenario will spend, before it runs: noise, budget by round, a pilot's accuracy."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from fedkd.data.federation import load
from fedkd.privacy.accounting import epsilon
from fedkd.privacy.claims import claim
from fedkd.privacy.events import to_plain
from fedkd.privacy.ledger import Charge, Ledger
from fedkd.privacy.plan import noiseless, proxy_rows, run_events
from fedkd.privacy.releases import guard, releases
from fedkd.reports.privacy_explanation import event_text
from fedkd.scenario import Scenario, scenario_hash
from fedkd.simulation import simulate


def plan(scenario: Scenario) -> dict[str, Any]:
    """Return what a planned scenario spends and what may be claimed after it.

    Keys: ``scenario``, ``scenario_hash``, ``rounds``, ``proxy_rows``, ``events`` (of one client,
    first round), ``epsilon_total`` and ``epsilon_by_round`` (null where nothing bounds them),
    ``target_epsilon``, ``delta``, ``unit``, ``projected_mass`` (least and largest mean share of a
    noisy row that the protector's projection moves, or null), ``claim``, ``claim_level``,
    ``warnings``.
    """
    kept, delta, n_rows = guard(scenario), scenario.privacy.delta, proxy_rows(scenario)
    after = [
        epsilon(run_events(scenario, rounds=n), delta=delta) for n in range(1, scenario.rounds + 1)
    ]
    said = claim(scenario, _as_if_run(scenario, n_rows=n_rows), [])
    bounded = kept is not None and math.isfinite(after[-1])
    first = releases(scenario, n_rows=n_rows, first=True)
    return {
        "scenario": scenario.name,
        "scenario_hash": scenario_hash(scenario),
        "rounds": scenario.rounds,
        "proxy_rows": n_rows,
        "events": [
            {"what": r.what, "unit": r.unit.value, "event": to_plain(r.event)} for r in first
        ],
        "epsilon_total": after[-1] if bounded else None,
        "epsilon_by_round": after if bounded else None,
        "target_epsilon": scenario.privacy.target_epsilon,
        "delta": delta,
        "unit": kept[0].value if kept else None,
        "projected_mass": scenario.protector.projected_mass(
            n_classes=load(scenario.data).n_classes
        ),
        "claim": said.sentence,
        "claim_level": said.level,
        "warnings": said.warnings,
    }


def pilot(scenario: Scenario, *, rounds: int) -> dict[str, Any]:
    """Run the first rounds with and without the noise; return their mean client accuracies.

    The noise is that of the whole run. A pilot on private data would spend budget that nobody
    counts: it belongs on public data that looks like it, as every shipped data set is.
    """
    figures: dict[str, Any] = {"rounds": min(rounds, scenario.rounds)}
    short = replace(scenario, rounds=figures["rounds"])
    for name, variant in (("with_noise", short), ("without_noise", noiseless(short))):
        with tempfile.TemporaryDirectory() as folder:
            summary = simulate(variant, out=folder)
        figures[name] = {
            key: summary[key]
            for key in ("accuracy_mean", "accuracy_distilled_mean", "teacher_accuracy")
        }
    return figures


def print_plan(found: dict[str, Any], tried: dict[str, Any] | None) -> None:
    """Print the plan, and the pilot where there was one."""
    table = Table(title=f"{found['scenario']}: plan", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("may be claimed", f"{found['claim']}  (level {found['claim_level']})")
    table.add_row("proxy rows", f"{found['proxy_rows']:,} in each of {found['rounds']} rounds")
    for event in found["events"]:
        text = f"{event['what']}: {event_text(event['event'])}"
        table.add_row(f"released, {event['unit']}", text)
    spent = found["epsilon_by_round"]
    if spent is not None:
        total = f"{found['epsilon_total']:.4g} at delta {found['delta']:g}"
        limit = found["target_epsilon"]
        table.add_row("epsilon", total if limit is None else f"{total}, of {limit:g}")
        shown = sorted({0, len(spent) // 4, len(spent) // 2, len(spent) - 1})
        by_round = "  ".join(f"round {n + 1}: {spent[n]:.3g}" for n in shown)
        table.add_row("epsilon after", by_round)
    if found["projected_mass"] is not None:
        least, most = (f"{100 * share:.3g} %" for share in found["projected_mass"])
        told = f"moves {least} (even row) to {most} (sure row) of a noisy row's mass, on average"
        table.add_row("projection", told)
    if tried is not None:
        for name in ("with_noise", "without_noise"):
            label = f"pilot {name.replace('_', ' ')}"
            accuracy = 100 * tried[name]["accuracy_mean"]
            table.add_row(
                label, f"accuracy {accuracy:.1f} % after {tried['rounds']} of {found['rounds']}"
            )
    for warning in found["warnings"]:
        table.add_row("note", warning)
    Console().print(table)


def _as_if_run(scenario: Scenario, *, n_rows: int) -> Ledger:
    """Return the ledger that one client will have when it takes part in every round."""
    ledger = Ledger()
    for n in range(scenario.rounds):
        planned = releases(scenario, n_rows=n_rows, first=n == 0)
        ledger.add(Charge(round=n + 1, clients=(0,), release=release) for release in planned)
    return ledger
