"""Two audits side by side: what changed from one to the other, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.special import ndtr, ndtri
from scipy.stats import mannwhitneyu

from fedkd.audit.verdict import ALPHA, holm

WITH_INTERVAL = {
    "auc": "auc_ci",
    "tpr_at_fpr_01": "tpr_ci",
    "tpr_at_fpr_001": "tpr_001_ci",
}
"""Figures that have a 95 % interval, and its key. Of all compared figures more is worse."""


def changes(
    here: Sequence[dict[str, Any]], there: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what changed for every attack that measured the same in both audits.

    p is two-sided: of AUC and TPR, a normal test from the widths of both intervals, which takes
    the two for independent; of exposure, Mann-Whitney at the most insertions common to both. An
    epsilon bound has none.

    Args:
        here: the rows of the channels of one audit.
        there: of the other; a positive change says that ``here`` leaks more.

    Returns:
        Rows ``channel``, ``adversary``, ``attack``, ``figure``, ``here``, ``there``, ``change``,
        ``p``.
    """
    others = {(row["channel"], row["attack"]): row for row in there}
    found: list[dict[str, Any]] = []
    for row in here:
        other = others.get((row["channel"], row["attack"]))
        if other is None:
            continue
        for figure in (*WITH_INTERVAL, "eps_lb"):
            if row[figure] is not None and other[figure] is not None:
                p = _interval_p(row, other, figure)
                found.append(_change(row, figure, row[figure], other[figure], p=p))
        found += _exposure_change(row, other)
    return found


def worsened(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the changes for the worse that are significant at 5 % after Holm's correction."""
    tested = [row for row in rows if row["p"] is not None]
    adjusted = holm([row["p"] for row in tested])
    return [row for row, p in zip(tested, adjusted, strict=True) if p < ALPHA and row["change"] > 0]


def _change(
    row: dict[str, Any], figure: str, here: float, there: float, *, p: float | None
) -> dict[str, Any]:
    where = {key: row[key] for key in ("channel", "adversary", "attack")}
    return {**where, "figure": figure, "here": here, "there": there, "change": here - there, "p": p}


def _interval_p(row: dict[str, Any], other: dict[str, Any], figure: str) -> float | None:
    key = WITH_INTERVAL.get(figure)
    if key is None or row[key] is None or other[key] is None:
        return None
    spreads = [
        max(high - x[figure], x[figure] - low)
        for x, low, high in ((row, *row[key]), (other, *other[key]))
    ]
    spread = float(sum(s**2 for s in spreads)) ** 0.5 / float(ndtri(0.975))
    if spread <= 0:
        return None
    return float(2 * ndtr(-abs(row[figure] - other[figure]) / spread))


def _exposure_change(row: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    levels = [{one["insertions"] for one in side["levels"]} for side in (row, other)]
    common = levels[0] & levels[1]
    if not common:
        return []
    top = max(common)
    ours, theirs = (
        [float(one["bits"]) for one in side["exposures"] if one["insertions"] == top]
        for side in (row, other)
    )
    p = float(mannwhitneyu(ours, theirs, alternative="two-sided").pvalue)
    means = sum(ours) / len(ours), sum(theirs) / len(theirs)
    return [_change(row, "exposure_mean", *means, p=p)]
