"""Turn the runs of a comparison into a table: means, 95 % intervals and paired tests over seeds.

Intervals are Student's t over seeds. A difference is taken seed by seed against the first method
(same partition, same first weights), so what the seeds have in common cancels out. p-values are
of the two-sided paired t-test, one comparison at a time, not corrected for the number of methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fedkd.errors import ConfigError
from fedkd.registry import did_you_mean
from fedkd.reports.comparison.plan import ComparedRun
from fedkd.reports.comparison.target import mean_of, reached
from fedkd.run_files import read_metrics

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method in one scenario, at one round.

    Attributes:
        round: a measured round, or None for the end of the run.
        metric: what was compared; shares are in [0, 1].
        n_seeds: how many runs the mean is over.
        ci_low: lower end of the 95 % t-interval of the mean; None with one seed.
        against: the method that ``diff`` is taken from: positive means more than that method.
        diff: mean over common seeds of the difference; None for ``against`` itself.
        diff_low: lower end of its 95 % t-interval; None with fewer than two common seeds.
        p: of the two-sided paired t-test; None with fewer than two common seeds, and when the
            difference is the same for every seed.
        runs: the run folders.
        n_reached: how many of the runs came to ``--to-accuracy``; None where that was not asked.
        rounds_to: rounds that those took, on average; None where none came to it.
        seconds_to: the same in virtual seconds; None without devices and delays as well.
        joules_to: the same in joules of all devices; None without devices as well.
    """

    method: str
    scenario: str
    round: int | None
    metric: str
    n_seeds: int
    mean: float
    ci_low: float | None
    ci_high: float | None
    against: str
    diff: float | None
    diff_low: float | None
    diff_high: float | None
    p: float | None
    runs: list[str]
    n_reached: int | None = None
    rounds_to: float | None = None
    seconds_to: float | None = None
    joules_to: float | None = None


def rows(
    runs: Sequence[ComparedRun],
    *,
    metric: str = "accuracy_mean",
    at: Sequence[int] | None = None,
    to_accuracy: float | None = None,
) -> list[Row]:
    """Return the table, in the order in which scenarios and methods were named.

    Args:
        runs: of one plan, in any order, all or some.
        metric: a number in ``summary.json``.
        at: rounds to report besides the end, read from the runs' tables as means over clients.
        to_accuracy: also say, at the end, what it took to reach this share; None does not.

    Raises:
        ConfigError: no such metric, or a run did not measure it (at that round).
    """
    ordered = sorted(runs, key=lambda run: run.place)
    scenarios = list(dict.fromkeys(run.scenario for run in ordered))
    methods = list(dict.fromkeys(run.method for run in ordered))
    table: list[Row] = []
    for scenario in scenarios:
        for n_round in [*(at or []), None]:
            cells = {
                method: [r for r in ordered if (r.scenario, r.method) == (scenario, method)]
                for method in methods
            }
            values = {
                method: {run.seed: _value(run, metric, n_round) for run in cell}
                for method, cell in cells.items()
            }
            found = [
                _row(cell, values, metric=metric, n_round=n_round)
                for cell in cells.values()
                if cell
            ]
            if to_accuracy is not None and n_round is None:
                found = [_with_target(row, to_accuracy) for row in found]
            table += found
    return table


def _with_target(row: Row, accuracy: float) -> Row:
    """Return a row that also says what its runs took to reach an accuracy."""
    tried = [reached(Path(run), accuracy) for run in row.runs]
    done = [one for one in tried if one is not None]
    return replace(
        row,
        n_reached=len(done),
        rounds_to=mean_of(done, lambda one: one.rounds),
        seconds_to=mean_of(done, lambda one: one.seconds),
        joules_to=mean_of(done, lambda one: one.joules),
    )


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return mean, lower and upper end of the 95 % t-interval; None for ends of one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def _row(
    cell: Sequence[ComparedRun],
    values: dict[str, dict[int, float]],
    *,
    metric: str,
    n_round: int | None,
) -> Row:
    method, against = cell[0].method, cell[0].against
    mean, low, high = interval(list(values[method].values()))
    others = values.get(against, {})
    common = [seed for seed in values[method] if seed in others and method != against]
    differences = [values[method][seed] - others[seed] for seed in common]
    diff, diff_low, diff_high = interval(differences) if differences else (None, None, None)
    return Row(
        method=method,
        scenario=cell[0].scenario,
        round=n_round,
        metric=metric,
        n_seeds=len(cell),
        mean=mean,
        ci_low=low,
        ci_high=high,
        against=against,
        diff=diff,
        diff_low=diff_low,
        diff_high=diff_high,
        p=_p_value(differences),
        runs=[run.summary["run_dir"] for run in cell],
    )


def _p_value(differences: Sequence[float]) -> float | None:
    """Return the p of mean zero; None where t has no spread to divide by."""
    if len(differences) < 2 or np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        return None
    test: Any = stats.ttest_1samp(differences, 0.0)
    return float(test.pvalue)


def _value(run: ComparedRun, metric: str, n_round: int | None) -> float:
    name, folder = metric.removesuffix("_mean"), run.summary["run_dir"]
    numbers = [k for k, v in run.summary.items() if v is None or isinstance(v, int | float)]
    if metric not in numbers:
        raise ConfigError(f"metric: no {metric!r} in a summary{did_you_mean(metric, numbers)}")
    if n_round is None:
        if run.summary[metric] is None:
            raise ConfigError(f"metric: {folder!r} has no {metric!r}; choose another metric")
        return float(run.summary[metric])
    table = read_metrics(Path(folder))
    measured = table[table["name"] == name]
    if n_round not in set(measured["round"]):
        known = ", ".join(str(n) for n in sorted(set(measured["round"]))) or "none"
        raise ConfigError(
            f"at: {folder!r} did not measure {name} at round {n_round}; choose from: {known}"
        )
    return float(measured[measured["round"] == n_round]["value"].mean())
