"""What a report says about an audited run besides its leaks: identity, claim, utility, ledger."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fedkd.data.federation import load, planted
from fedkd.privacy.accounting import epsilon
from fedkd.privacy.claims import claim
from fedkd.privacy.ledger import Charge, Ledger, Release
from fedkd.privacy.releases import guard
from fedkd.registry import describe
from fedkd.run_files import LEDGER, read_cohorts, read_summary
from fedkd.scenario import Scenario
from fedkd.transcript import Transcript

UTILITY = (
    "accuracy_mean",
    "server_accuracy",
    "bits_per_character_mean",
    "server_bits_per_character",
)


def identity(run: Path, scenario: Scenario, transcript: Transcript) -> dict[str, Any]:
    """Return what names the run and its threat model."""
    summary = read_summary(run)
    head = json.loads((run / "scenario.json").read_text(encoding="utf-8"))
    return {
        "dir": str(run),
        "scenario": scenario.name,
        "description": scenario.description,
        "scenario_hash": summary["scenario_hash"],
        "result_hash": summary["result_hash"],
        "method": summary["method"],
        "protector": describe(scenario.protector),
        "server_view": scenario.server_view.value,
        "proxy": describe(scenario.proxy)["name"],
        "clients": scenario.clients,
        "rounds": scenario.rounds,
        "seeds": {"seed": scenario.seed, **describe(scenario.seeds)},
        "versions": head["versions"],
        "transcript_sha256": transcript.sha256,
        "data_sha256": _data_sha256(scenario),
        "model_sha256": transcript.student_sha256() or "",
    }


def utility(run: Path) -> dict[str, Any]:
    """Return the run's own measure of what it is good for; None for what was not measured."""
    summary = read_summary(run)
    return {key: summary.get(key) for key in UTILITY}


def claims(run: Path, scenario: Scenario) -> dict[str, Any]:
    """Return what may formally be claimed, from the claims engine."""
    said = claim(scenario, Ledger(path=run / LEDGER), read_cohorts(run))
    return {
        "level": said.level,
        "sentence": said.sentence,
        "epsilon": said.epsilon,
        "delta": scenario.privacy.delta if said.delta is None else said.delta,
        "unit": "" if said.unit is None else said.unit.value,
        "neighboring": said.neighboring,
        "trust": said.trust,
        "warnings": list(said.warnings),
    }


def spending(run: Path, scenario: Scenario) -> dict[str, Any]:
    """Return the ledger: each client's epsilon, in all and after each round it took part in."""
    ledger, kept = Ledger(path=run / LEDGER), guard(scenario)
    known: dict[tuple[Release, ...], float | None] = {}

    def spent(charges: list[Charge]) -> float | None:
        releases = tuple(charge.release for charge in charges)
        if kept is not None and releases not in known:
            events = [one.event for one in releases if (one.unit, one.channel) == kept]
            value = epsilon(events, delta=scenario.privacy.delta)
            known[releases] = value if math.isfinite(value) else None
        return known.get(releases)

    clients: list[dict[str, Any]] = []
    for client in ledger.clients():
        charges = ledger.all_of(client)
        rounds = sorted({charge.round for charge in charges})
        by_round = [spent([c for c in charges if c.round <= n]) for n in rounds]
        clients.append(
            {
                "client": client,
                "epsilon": by_round[-1] if by_round else None,
                "releases": len(charges),
                "by_round": by_round if kept is not None else [],
            }
        )
    return {
        "unit": "" if kept is None else kept[0].value,
        "target_epsilon": scenario.privacy.target_epsilon,
        "clients": clients,
    }


def canary_list(scenario: Scenario) -> list[dict[str, Any]]:
    """Return every canary with its secret in words."""
    settings = scenario.canaries
    if settings is None:
        return []
    arrays = load(scenario.data)
    return [
        {
            "number": canary.number,
            "insertions": canary.insertions,
            "holders": list(canary.holders),
            "words": settings.family.words(arrays, canary),
        }
        for canary in planted(scenario.layout()).canaries
    ]


def _data_sha256(scenario: Scenario) -> str:
    """Return the SHA-256 of the data set's arrays, without canaries."""
    arrays, sha = load(scenario.data), hashlib.sha256()
    for part in (arrays.train_inputs, arrays.train_labels, arrays.test_inputs, arrays.test_labels):
        sha.update(f"{part.dtype} {part.shape}".encode())
        sha.update(np.ascontiguousarray(part).tobytes())
    return sha.hexdigest()
