"""What a run took to reach an accuracy for the first time: rounds, virtual seconds, joules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fedkd.errors import ConfigError
from fedkd.results import SERVER
from fedkd.run_files import read_metrics


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What it took up to the end of the round in which the accuracy was there.

    Attributes:
        seconds: virtual ones; None in a scenario without devices and delays.
        joules: of all devices; None without devices.
    """

    rounds: int
    seconds: float | None
    joules: float | None


def reached(run: Path, accuracy: float) -> Reached | None:
    """Return what a run took until its clients' mean accuracy was this high; None if never.

    Only rounds that were measured count (``measure_every``), and those of all or some clients
    alike.
    """
    table = read_metrics(run)
    measured: Any = table[table["name"] == "accuracy"].groupby("round")["value"].mean()
    enough = [int(n) for n, mean in sorted(measured.items()) if mean >= accuracy]
    if not enough:
        return None
    done = table[(table["round"] <= enough[0]) & (table["client"] == SERVER)]
    seconds, joules = (
        done[done["name"] == name]["value"] for name in ("virtual_seconds", "energy_j")
    )
    return Reached(
        rounds=enough[0],
        seconds=float(seconds.sum()) if len(seconds) else None,
        joules=float(joules.sum()) if len(joules) else None,
    )


def mean_of(runs: Sequence[Reached], figure: Callable[[Reached], float | None]) -> float | None:
    """Return the mean of a figure over the runs that have it; None where none does."""
    values = [value for run in runs if (value := figure(run)) is not None]
    return fmean(values) if values else None


def target_of(text: str) -> float | None:
    """Return the accuracy that ``--to-accuracy`` names; None for an empty text."""
    if not text:
        return None
    try:
        accuracy = float(text)
    except ValueError:
        accuracy = -1.0
    if not 0 < accuracy <= 1:
        raise ConfigError(f"--to-accuracy: {text!r} is no share of 1, such as 0.7")
    return accuracy
