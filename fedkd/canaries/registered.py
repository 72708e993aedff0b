"""The canaries of a run, written down before anything is trained: the ground truth of an audit."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fedkd.data.federation import arrays_of, planted
from fedkd.errors import ConfigError
from fedkd.registry import describe
from fedkd.scenario import Scenario
from fedkd.types import SCHEMA

WARNING = (
    "Private ground truth: every canary's secret. Nobody who is meant to find them out, or whose "
    "attack is to be judged, may read this file."
)


def registration(scenario: Scenario) -> dict[str, Any]:
    """Return the content of ``canaries.json``; ConfigError when there are none to register."""
    settings = scenario.canaries
    if settings is None:
        raise ConfigError("canaries: null plants nothing that could be registered")
    layout = scenario.layout()
    arrays = arrays_of(layout)
    canaries: list[dict[str, Any]] = [
        {
            "number": canary.number,
            "secret": canary.secret,
            "insertions": canary.insertions,
            "holders": list(canary.holders),
            "words": settings.family.words(arrays, canary),
        }
        for canary in planted(layout).canaries
    ]
    return {
        "schema": SCHEMA,
        "warning": WARNING,
        "settings": describe(settings),
        "seed": layout.seed,
        "n_secrets": settings.family.n_secrets(arrays),
        "canaries": canaries,
        "sha256": list_sha256(canaries),
    }


def list_sha256(canaries: list[dict[str, Any]]) -> str:
    """Return the SHA-256 of a list of canaries as canonical JSON, 64 hex digits."""
    text = json.dumps(canaries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
