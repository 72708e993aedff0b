"""Two audits side by side: what changed from one to the other, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.special import ndtr, ndtri
from scipy.stats import mannwhitneyu

from fedkd.audit.verdict import ALPHA, holm

COMPARED = ("auc", "tpr_at_fpr_01", "tpr_at_fpr_001", "eps_lb")
"""Figures of a row; of all of them more is worse."""


def changes(
    here: Sequence[dict[str, Any]], there: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what changed for every attack that measured the same in both audits.

    p is two-sided: of AUC, a normal test from the widths of both intervals, which takes the two
    for independent; of exposure, Mann-Whitney at the most insertions common to both, if both were
    ranked among as many candidates: bits among others are another measure. An epsilon bound has
    none, nor has a TPR: its interval is about one threshold, and another audit's non-members set
    another one.

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
        for figure in COMPARED:
            if row[figure] is not None and other[figure] is not None:
                p = _auc_p(row, other) if figure == "auc" else None
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


def _auc_p(row: dict[str, Any], other: dict[str, Any]) -> float | None:
    if row["auc_ci"] is None or other["auc_ci"] is None:
        return None
    spreads = [max(x["auc_ci"][1] - x["auc"], x["auc"] - x["auc_ci"][0]) for x in (row, other)]
    spread = float(sum(s**2 for s in spreads)) ** 0.5 / float(ndtri(0.975))
    if spread <= 0:
        return None
    return float(2 * ndtr(-abs(row["auc"] - other["auc"]) / spread))


def _exposure_change(row: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    levels = [{one["insertions"] for one in side["levels"]} for side in (row, other)]
    common = levels[0] & levels[1]
    if not common or row["exposure_cap"] != other["exposure_cap"]:
        return []
    top = max(common)
    ours, theirs = (
        [float(one["bits"]) for one in side["exposures"] if one["insertions"] == top]
        for side in (row, other)
    )
    p = float(mannwhitneyu(ours, theirs, alternative="two-sided").pvalue)
    means = sum(ours) / len(ours), sum(theirs) / len(theirs)
    return [_change(row, "exposure_mean", *means, p=p)]
