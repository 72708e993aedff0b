"""What a run left in its folder, read back; :mod:`fedkd.run_folder` writes it."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from fedkd.canaries.registered import list_sha256
from fedkd.errors import ConfigError
from fedkd.scenario import Scenario, from_json, scenario_hash
from fedkd.types import SCHEMA

HEAD, CANARIES, LEDGER = "scenario.json", "canaries.json", "ledger.jsonl"
EVENTS, SUMMARY, CALIBRATION = "events.jsonl", "summary.json", "calibration.json"


def read_run_id(path: Path) -> str:
    """Return the name that a run has for its clients."""
    return str(read_json(path / HEAD)["run_id"])


def read_summary(path: Path) -> dict[str, Any]:
    """Return a run's summary, ``run_dir`` being where it lies now; ConfigError if there is none."""
    return read_json(path / SUMMARY) | {"run_dir": str(path)}


def read_scenario(path: Path) -> Scenario:
    """Return the scenario a run was made from."""
    return from_json(json.dumps(read_json(path / HEAD)["scenario"]))


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the results that were written down, as far as the run got; a torn line is none."""
    events = path / EVENTS
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def read_cohorts(path: Path) -> list[tuple[int, list[int]]]:
    """Return the clients that every round asked, as far as the run got; empty for none."""
    asked = read_events(path)
    return [(event["round"], event["cohort"]) for event in asked if event["round"] > 0]


def read_canaries(path: Path) -> list[dict[str, Any]]:
    """Return what was registered of each canary; none when nothing was planted.

    Raises:
        ConfigError: the list is not the one that was registered.
    """
    if not (path / CANARIES).exists():
        return []
    tree = read_json(path / CANARIES)
    if list_sha256(tree["canaries"]) != tree["sha256"]:
        raise ConfigError(f"{str(path / CANARIES)!r} was changed after the run began; run it again")
    return tree["canaries"]


def read_metrics(path: Path) -> Any:
    """Return a run's long-format table as a pandas DataFrame (round, client, name, value)."""
    import pandas as pd

    return pd.read_parquet(path / "metrics.parquet")


def finished_run(out: Path, scenario: Scenario) -> dict[str, Any] | None:
    """Return the summary of a finished run of this very scenario and version under ``out``."""
    wanted = scenario_hash(scenario)
    version = importlib.metadata.version("fedkd")
    for head_path in sorted(out.glob(f"*-{wanted[:8]}*/scenario.json")):
        try:
            head, summary = read_json(head_path), read_summary(head_path.parent)
        except ConfigError:
            continue
        same = head["scenario_hash"] == wanted and head["versions"]["fedkd"] == version
        if same and summary["status"] == "finished":
            return summary
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file of a run folder; ConfigError when it is missing, damaged or newer."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"{str(path.parent)!r} is no run folder: {path.name} is missing"
        ) from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{str(path)!r} is damaged: {error}") from None
    if tree.get("schema") != SCHEMA:
        raise ConfigError(
            f"{str(path)!r} has schema {tree.get('schema')!r}; this fedkd reads {SCHEMA}"
        )
    return tree
