"""A run beside the same run with another protection: what the protection took away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedkd.audit.difference import changes
from fedkd.audit.exposure import Exposures
from fedkd.audit.reduction import Reduction, exposure_reduction
from fedkd.data.federation import planted
from fedkd.errors import ConfigError
from fedkd.registry import describe
from fedkd.scenario import Scenario

ON_STUDENT = "canary_student"
"""The attack whose exposures the reduction is about."""


def check_paired(here: Scenario, there: Scenario) -> None:
    """Raise ConfigError unless both runs hold the same data and the same canaries, if any."""
    for name in ("data", "partition", "clients", "canaries"):
        one, other = (describe(getattr(scenario, name)) for scenario in (here, there))
        if one != other:
            raise ConfigError(
                f"--against: the runs differ in {name} ({_short(one)} and {_short(other)}), so "
                "their canaries do not pair; give a run that differs in its protection only"
            )
    if planted(here.layout()).canaries != planted(there.layout()).canaries:
        raise ConfigError(
            f"--against: the runs' canaries hold other secrets (partition seeds "
            f"{here.partition_seed()} and {there.partition_seed()}); give a run of the same seed"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def compared(
    here: dict[str, Any], there: dict[str, Any], *, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the keys of a report that compare two audits of paired runs.

    Args:
        here: the audit of the protected run, or of either one.
        there: of the run it is held against.
        rng: draws the bootstraps.
    """
    levels, reason = _by_level(here["channels"], there["channels"], rng=rng)
    top = levels[-1] if levels else {"reduction": None, "ci": None, "reason": reason}
    return {
        "exposure_reduction": top["reduction"],
        "exposure_reduction_ci": top["ci"],
        "exposure_reduction_reason": top["reason"],
        "comparison": {
            "against": there["run"],
            "utility": there["utility"],
            "rows": changes(here["channels"], there["channels"]),
            "exposure_by_level": levels,
        },
    }


def _by_level(
    here: Sequence[dict[str, Any]], there: Sequence[dict[str, Any]], *, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], str]:
    protected, plain = (_student_exposures(rows) for rows in (here, there))
    if not protected or not plain:
        which = "this run" if not protected else "the run it is held against"
        return [], f"{which} shows no exposure on the student channel"
    found: list[dict[str, Any]] = []
    for level in sorted({one["insertions"] for one in plain}):
        with_it, without = (
            [one for one in side if one["insertions"] == level] for side in (protected, plain)
        )
        reduction = exposure_reduction(_exposures(without), _exposures(with_it), rng=rng)
        found.append({"insertions": level, **_plain(reduction)})
    return found, ""


def _student_exposures(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for row in rows if row["attack"] == ON_STUDENT for one in row["exposures"]]


def _exposures(canaries: Sequence[dict[str, Any]]) -> Exposures:
    ranks = np.array([one["rank"] for one in canaries], dtype=np.int64)
    return Exposures(ranks=ranks, n_candidates=canaries[0]["candidates"])


def _plain(found: Reduction) -> dict[str, Any]:
    interval = found.interval
    return {
        "plain": found.plain,
        "protected": found.protected,
        "reduction": found.value,
        "ci": None if interval is None else [interval.low, interval.high],
        "reason": found.reason,
    }
