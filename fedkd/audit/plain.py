"""Findings as plain data: one attack's row of a report, ready for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from fedkd.audit.attacks.base import Attack, attacks
from fedkd.audit.bounds import EpsilonBound, Relation
from fedkd.audit.exposure import LevelExposure
from fedkd.audit.findings import Extraction, Membership, Result
from fedkd.audit.intervals import Interval
from fedkd.audit.power import least_found
from fedkd.audit.roc import Roc

ROC_POINTS = 200
BULKY = ("roc", "exposures", "labels")
"""Keys of a row that a one-line summary leaves out."""
UNITS = {
    Relation.ADD_OR_REMOVE: "adding or removing one record",
    Relation.REPLACE: "replacing one record",
}


def channel_row(
    attack: Attack, result: Result | None, *, status: str, reason: str, set_aside: str = ""
) -> dict[str, Any]:
    """Return an attack's row; every number is None without a result or where it has none.

    Args:
        attack: whose row.
        result: what it found, None when it did not run.
        status: ``ran``, ``not applicable``, ``not seen`` or ``failed``.
        reason: why, when it did not run.
        set_aside: why its tests do not count in the verdict, or an empty text.
    """
    found = Result(at_risk="") if result is None else result
    return {
        "channel": attack.channel.value,
        "adversary": attack.adversary.value,
        "attack": attacks.name_of(attack),
        "at_risk": found.at_risk,
        "n": _size(found),
        **_membership(found.membership),
        **_bound(found),
        **_exposure(found.extraction),
        "figures": [
            {
                "name": figure.name,
                "value": _number(figure.value),
                "chance": _number(figure.chance),
                "interval": None if figure.interval is None else [*map(_number, figure.interval)],
                "p": _number(figure.p),
            }
            for figure in found.figures
        ],
        "labels": [
            {
                "client": guess.client,
                "true": [*map(_number, guess.true)],
                "guessed": [*map(_number, guess.guessed)],
                "kl": _number(guess.kl),
                "kl_prior": _number(guess.kl_prior),
            }
            for guess in found.labels
        ],
        "note": found.note,
        "decides": not set_aside,
        "decides_reason": set_aside,
        "status": status,
        "reason": reason,
    }


def measured(result: Result) -> bool:
    """Return whether a result holds any number at all."""
    one = (result.membership, result.extraction, result.bound)
    return any(part is not None for part in one) or bool(result.labels or result.figures)


def _size(found: Result) -> int | None:
    """Return how many were judged; None for an attack that counts no members and no canaries."""
    if found.membership is not None:
        return found.membership.auc.n_members + found.membership.auc.n_nonmembers
    if found.extraction is not None:
        return len(found.extraction.insertions)
    return (len(found.labels) or None) if found.bound is None else found.bound.n_canaries


def _membership(found: Membership | None) -> dict[str, Any]:
    one, tenth = (None, None) if found is None else found.tpr
    return {
        "auc": None if found is None else _number(found.auc.value),
        "auc_ci": None if found is None else _ends(found.auc.interval),
        "auc_p": None if found is None else _number(found.auc.p),
        "tpr_at_fpr_01": None if one is None else _number(one.value),
        "tpr_ci": None if one is None else _ends(one.interval),
        "tpr_at_fpr_001": None if tenth is None else _number(tenth.value),
        "tpr_001_ci": None if tenth is None else _ends(tenth.interval),
        "roc": None if found is None else _curve(found.roc),
    }


def _bound(found: Result) -> dict[str, Any]:
    bound, unit = _chosen(found)
    return {
        "eps_lb": None if bound is None else _number(bound.epsilon),
        "eps_ceiling": None if bound is None else _number(bound.ceiling),
        "eps_detectable": _number(least_found(found)),
        "eps_delta": None if bound is None else _number(bound.delta),
        "eps_unit": unit,
        "eps_rule": "" if bound is None else _rule(bound),
    }


def _rule(bound: EpsilonBound) -> str:
    """Return how the auditor's choice was kept honest, and what else has to hold."""
    return f"{bound.rule.value}; holds if {' and '.join(one.value for one in bound.assumptions)}"


def _chosen(found: Result) -> tuple[EpsilonBound | None, str]:
    if found.bound is not None:
        return found.bound, found.bound_unit or UNITS[found.bound.relation]
    if found.extraction is not None:
        unit = found.bound_unit or "replacing one holder's canary examples, all together"
        return found.extraction.bound, unit
    bound = None if found.membership is None else found.membership.bound
    return bound, "" if bound is None else UNITS[bound.relation]


def _exposure(found: Extraction | None) -> dict[str, Any]:
    top = None if found is None else found.levels[-1]
    return {
        "exposure_mean": None if top is None else _number(top.mean),
        "exposure_p": None if top is None else _number(top.rank_p),
        "exposure_floor": None if top is None else _number(top.floor),
        "exposure_cap": None if top is None else _number(top.cap),
        "ranking": None if found is None else "exact" if _is_exact(found) else "sampled",
        "levels": [] if found is None else [_level(found, level) for level in found.levels],
        "exposures": [] if found is None else _canaries(found),
    }


def _is_exact(found: Extraction) -> bool:
    return found.extrapolations is None


def _level(found: Extraction, level: LevelExposure) -> dict[str, Any]:
    return {
        "insertions": level.insertions,
        "n": level.n_canaries,
        "mean": _number(level.mean),
        "ci": _ends(level.interval),
        "floor": _number(level.floor),
        "cap": _number(level.cap),
        "p": _number(level.rank_p),
        "extrapolation": _beyond(found, level.insertions),
    }


def _beyond(found: Extraction, insertions: int) -> dict[str, Any] | None:
    """Return what extrapolation makes of a level's canaries at the cap; None if ranks are exact."""
    if found.extrapolations is None:
        return None
    pairs = zip(found.extrapolations, found.insertions, strict=True)
    tried = [one for one, times in pairs if one is not None and times == insertions]
    bits = [one.value for one in tried if one.value is not None]
    fitted = [(one.fit_p, one.tail_p) for one in tried if None not in (one.fit_p, one.tail_p)]
    fit_p, tail_p = np.median(np.array(fitted, float), axis=0) if fitted else (None, None)
    return {
        "at_cap": len(tried),
        "opened": len(bits),
        "mean": _number(float(np.mean(bits))) if bits else None,
        "low": min(bits, default=None),
        "high": max(bits, default=None),
        "ceiling": tried[0].ceiling if tried else None,
        "fit_p": _number(fit_p),
        "tail_p": _number(tail_p),
        "reason": next((one.reason for one in tried if one.reason is not None), None),
    }


def _canaries(found: Extraction) -> list[dict[str, Any]]:
    ranks, bits = found.exposures.ranks, found.exposures.bits
    beyond = found.extrapolations or (None,) * len(ranks)
    columns = (found.numbers, found.insertions, ranks, bits, beyond)
    return [
        {
            "canary": int(number),
            "insertions": int(insertions),
            "rank": int(rank),
            "candidates": found.exposures.n_candidates,
            "bits": _number(bits),
            "extrapolation": None if one is None else asdict(one),
        }
        for number, insertions, rank, bits, one in zip(*columns, strict=True)
    ]


def _curve(curve: Roc) -> dict[str, list[float]]:
    """Return at most 200 points, half of them where false alarms are rare."""
    last = len(curve.fpr) - 1
    picks = np.arange(last + 1)
    if last >= ROC_POINTS:
        half = ROC_POINTS // 2
        even, early = np.linspace(0, last, half), np.geomspace(1, last, half)
        picks = np.unique(np.concatenate([even, early]).round().astype(np.int64))
    columns = {"fpr": curve.fpr, "tpr": curve.tpr, "low": curve.tpr_low, "high": curve.tpr_high}
    return {name: [float(value) for value in column[picks]] for name, column in columns.items()}


def _ends(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [_number(interval.low), _number(interval.high)]


def _number(value: float | None) -> float | None:
    """Return a float that JSON knows: None for what is no finite number."""
    return float(value) if value is not None and math.isfinite(value) else None
