"""What the report of a run is made from, gathered from its folder, however the run ended.

Every number comes from ``events.jsonl``, the one file that is complete up to the last round even
when the process was killed; its result hash is compared with the summary's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fedkd.errors import ConfigError
from fedkd.registry import describe
from fedkd.reports.privacy_explanation import explanation
from fedkd.reports.run.confusion import Confusion, confusion
from fedkd.results import Failure, Measurement, RoundResult, summarise
from fedkd.run_files import read_scenario, read_summary
from fedkd.scenario import Scenario, scenario_hash
from fedkd.types import SCHEMA

UNFINISHED = "unfinished"
KILLED = (
    "This run has no summary: it was killed, or it is still going on. What follows was worked "
    "out from the rounds that it wrote down."
)
DAMAGED = "The last line of events.jsonl is cut off; that round is missing here."
DISAGREES = (
    "events.jsonl gives the result hash {found}, summary.json says {stored}: one of the two files "
    "is not what the run wrote."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class RunFacts:
    """A run as far as it went.

    Attributes:
        head: the content of ``scenario.json``.
        scenario: the same, rebuilt.
        summary: the keys of ``summary.json``, worked out anew where there is none.
        rounds: what each round left behind.
        table: the measurements, a DataFrame (round, client, name, value).
        privacy: what ``fedkd privacy explain`` says.
        confusion: of the last consensus that was kept, or None.
        no_confusion: why there is none.
        notes: what a reader must know about the folder itself, one sentence each.
    """

    head: dict[str, Any]
    scenario: Scenario
    summary: dict[str, Any]
    rounds: list[RoundResult]
    table: Any
    privacy: dict[str, Any]
    confusion: Confusion | None = None
    no_confusion: str = ""
    notes: list[str] = field(default_factory=list[str])


def gather(run: Path) -> RunFacts:
    """Read a run's folder; ConfigError when it is none."""
    scenario, privacy = read_scenario(run), explanation(run)
    rounds, notes = _rounds(run)
    figures = summarise(rounds, adversaries=scenario.attackers())
    made = {**_asked(run, scenario), **figures, **_claimed(privacy)}
    try:
        summary = made | read_summary(run)
    except ConfigError:
        if (run / "summary.json").exists():
            raise
        summary, notes = made, [KILLED, *notes]
    if summary["result_hash"] != made["result_hash"]:
        notes.append(DISAGREES.format(found=made["result_hash"], stored=summary["result_hash"]))
    told, reason = confusion(run, scenario)
    return RunFacts(
        head=json.loads((run / "scenario.json").read_text(encoding="utf-8")),
        scenario=scenario,
        summary=summary,
        rounds=rounds,
        table=_table(rounds),
        privacy=privacy,
        confusion=told,
        no_confusion=reason,
        notes=notes,
    )


def _rounds(run: Path) -> tuple[list[RoundResult], list[str]]:
    """Return the rounds that were written down, and what is wrong with the file."""
    path = run / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rounds: list[RoundResult] = []
    for n, line in enumerate(lines):
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            if n == len(lines) - 1:
                return rounds, [DAMAGED]
            raise ConfigError(f"{str(path)!r} is damaged in line {n + 1}: {error}") from None
        rounds.append(
            RoundResult(
                round=event["round"],
                cohort=event["cohort"],
                measurements=[Measurement(**m) for m in event["measurements"]],
                failures=[Failure(**f) for f in event["failures"]],
                refused=[Failure(**f) for f in event.get("refused", [])],
                stood_in=event.get("stood_in", []),
                left_out=event.get("left_out", []),
                digest=event["digest"],
                ended=event.get("ended", ""),
            )
        )
    return rounds, []


def _table(rounds: Sequence[RoundResult]) -> Any:
    rows = [asdict(m) for result in rounds for m in result.measurements]
    table = pd.DataFrame(rows, columns=["round", "client", "name", "value"])
    return table.astype({"round": "int32", "client": "int32", "name": "str", "value": "float64"})


def _asked(run: Path, scenario: Scenario) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "status": UNFINISHED,
        "scenario": scenario.name,
        "method": describe(scenario.method)["name"],
        "seed": scenario.seed,
        "clients": scenario.clients,
        "rounds": scenario.rounds,
        "seconds": None,
        "peak_rss_mb": None,
        "scenario_hash": scenario_hash(scenario),
        "run_dir": str(run),
    }


def _claimed(privacy: dict[str, Any]) -> dict[str, Any]:
    return {
        "privacy_warnings": privacy["warnings"],
        "privacy_claim": privacy["claim"],
        "privacy_level": privacy["claim_level"],
        "epsilon": privacy["epsilon"],
        "delta": privacy["delta"],
        "unit": privacy["unit"],
    }
