"""Draw the ROC curves of an audit, both axes logarithmic, with what a formal epsilon allows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedkd.reports.audit.words import at_most, decimal
from fedkd.reports.page_style import INK
from fedkd.reports.pictures import WIDTH, Picture, drawing, short
from fedkd.reports.plotting import PALETTE, new_figure

BLUE, ORANGE = PALETTE[:2]
LEAST_RATE = 1e-4


def roc_pictures(result: dict[str, Any]) -> list[Picture]:
    """Return one picture a curve."""
    rows = [row for row in result["channels"] if row["roc"] and len(row["roc"]["fpr"]) > 1]
    return [_roc(row, result["claim"], f"roc-{n}") for n, row in enumerate(rows)]


def _roc(row: dict[str, Any], claim: dict[str, Any], name: str) -> Picture:
    curve = row["roc"]
    fpr, tpr = np.asarray(curve["fpr"]), np.asarray(curve["tpr"])
    low, high = np.asarray(curve["low"]), np.asarray(curve["high"])
    floor = max(LEAST_RATE, 0.7 * min(fpr[fpr > 0], default=LEAST_RATE))
    floor = min(floor, 0.7 * min(tpr[tpr > 0], default=1.0))
    drawn = np.maximum(fpr, floor)
    with drawing():
        figure = new_figure(WIDTH, 600)
        axes = figure.add_subplot()
        axes.fill_between(drawn, np.maximum(low, floor), high, color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(drawn, np.maximum(tpr, floor), color=BLUE, label="this attack")
        line = np.geomspace(floor, 1, 200)
        axes.plot(line, line, ":", color=INK, linewidth=1.2, label="guessing")
        if claim["epsilon"] is not None:
            border = frontier(line, epsilon=claim["epsilon"], delta=claim["delta"] or 0.0)
            text = f"limit of epsilon {at_most(claim['epsilon'])} (one {short(claim['unit'])})"
            axes.plot(line, border, "--", color=ORANGE, label=text)
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.05))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_as_percent)
        axes.set_xlabel("false alarms among non-members (FPR)")
        axes.set_ylabel("members found (TPR)")
        axes.set_title(f"{short(row['attack'])}, {short(row['channel'])}")
        figure.legend(loc="outside lower center", ncols=2)
    where = f"{row['attack']} on {row['channel']}, seen by {row['adversary']}"
    limit = "; dashed: what the formal epsilon and delta allow for the unit named"
    return Picture(
        name=name,
        figure=figure,
        description=f"ROC curve of {where}, AUC {decimal(row['auc'], 3)}, both axes logarithmic",
        caption=f"{where}. Band: pointwise 95 %. Above the dotted line is better than guessing"
        + (limit if claim["epsilon"] is not None else "")
        + ".",
    )


def _as_percent(rate: float, _place: int) -> str:
    return f"{100 * rate:g} %"


def frontier(fpr: Any, *, epsilon: float, delta: float) -> Any:
    """Return the largest TPR that (epsilon, delta)-DP allows at each FPR, ``[points]``."""
    growth = math.exp(min(epsilon, 700.0))
    first = growth * fpr + delta
    second = 1 - (1 - delta - fpr) / growth
    return np.clip(np.minimum(first, second), 0.0, 1.0)
