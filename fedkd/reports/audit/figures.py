"""Draw an audit: ROC curves, exposure against chance, label distributions, budget, on and off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedkd.reports.audit.roc import roc_pictures
from fedkd.reports.audit.words import decimal
from fedkd.reports.page_style import INK
from fedkd.reports.pictures import WIDTH, Picture, drawing, short
from fedkd.reports.plotting import PALETTE, new_figure

BLUE, ORANGE, GREEN = PALETTE[:3]
MOST_CLIENTS = 4
"""So many clients' label distributions are drawn; all are in the table."""
FLOOR = 1 / math.log(2)
"""Mean exposure, in bits, of canaries that leak nothing, among many candidates."""
ON_STUDENT = "canary_student"
"""The attack whose exposures are compared."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Drawn:
    """All pictures of an audit, drawn once for page and paper; each may be missing."""

    rocs: list[Picture]
    exposures: list[Picture]
    labels: list[Picture]
    ledger: list[Picture]
    comparison: list[Picture]


def draw(result: dict[str, Any]) -> Drawn:
    """Return the pictures of an audit."""
    return Drawn(
        rocs=roc_pictures(result),
        exposures=exposure_pictures(result),
        labels=label_pictures(result),
        ledger=ledger_pictures(result),
        comparison=comparison_pictures(result),
    )


def exposure_pictures(result: dict[str, Any]) -> list[Picture]:
    """Return one picture an attack on canaries, one panel a number of insertions."""
    rows = [row for row in result["channels"] if row["exposures"]]
    return [_exposure(row, f"exposure-{n}") for n, row in enumerate(rows)]


def _exposure(row: dict[str, Any], name: str) -> Picture:
    counts = sorted({each["insertions"] for each in row["exposures"]})
    top = max(math.log2(max(2, each["candidates"])) for each in row["exposures"])
    edges = np.arange(0, math.ceil(top + 1e-9) + 1.001)
    with drawing():
        figure = new_figure(WIDTH, 100 + 210 * len(counts))
        panels: Any = figure.subplots(len(counts), 1, sharex=True, squeeze=False)[:, 0]
        for axes, count in zip(panels, counts, strict=True):
            at = [each for each in row["exposures"] if each["insertions"] == count]
            _draw_level(axes, at, edges)
            times = "once" if count == 1 else f"{count} times"
            axes.set_title(f"inserted {times}: {len(at)} canaries")
        panels[-1].set_xlabel("exposure in bits")
        handles, words = panels[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside lower center", ncols=3)
    where = f"{row['attack']} on {row['channel']}, seen by {row['adversary']}"
    return Picture(
        name=name,
        figure=figure,
        description=f"Histograms of canary exposure by number of insertions, {where}",
        caption=f"{where}. Without a leak the bars follow the dashed steps (mean "
        f"{row['exposure_floor'] or FLOOR:.2f} bits); bars to their right are secrets that came "
        "through. The dotted line is the cap: the secret ranks first.",
    )


def _draw_level(axes: Any, canaries: Sequence[dict[str, Any]], edges: Any) -> None:
    bits = [each["bits"] + 1e-9 for each in canaries if each["bits"] is not None]
    candidates = max(2, min(each["candidates"] for each in canaries))
    cap = math.log2(candidates)
    axes.hist(bits, bins=edges, color=BLUE, alpha=0.75, label="canaries")
    ranks = np.floor(np.exp2(cap - edges) + 1e-9)  # secrets whose exposure is at least the edge's
    expected = len(bits) * -np.diff(np.minimum(ranks, candidates)) / candidates
    axes.stairs(expected, edges, color=ORANGE, linestyle="--", linewidth=1.8, label="if no leak")
    axes.axvline(cap, color=INK, linestyle=":", linewidth=1.5, label="cap")
    axes.set_ylabel("canaries")
    axes.yaxis.get_major_locator().set_params(integer=True)


def label_pictures(result: dict[str, Any]) -> list[Picture]:
    """Return one picture a client, of every attack on label distributions the best guesses."""
    names = [str(name) for name in result["class_names"]]
    return [
        _labels(row, guess, names, f"labels-{n}-{place}")
        for n, row in enumerate(result["channels"])
        for place, guess in enumerate(best_guessed(row))
    ]


def best_guessed(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the clients of a row that are drawn: those whose labels were guessed best."""
    ordered = sorted(row["labels"], key=lambda each: (each["kl"] is None, each["kl"] or 0.0))
    return ordered[:MOST_CLIENTS]


def _labels(row: dict[str, Any], guess: dict[str, Any], names: Sequence[str], name: str) -> Picture:
    with drawing():
        figure = new_figure(WIDTH, 330)
        _draw_labels(figure.add_subplot(), guess, names)
        figure.legend(loc="outside lower center", ncols=2)
    where = f"client {guess['client']}: {row['attack']} on {row['channel']}"
    return Picture(
        name=name,
        figure=figure,
        description=f"Bars of true and guessed label shares, {where}",
        caption=f"{where}, seen by {row['adversary']}.",
    )


def _draw_labels(axes: Any, guess: dict[str, Any], names: Sequence[str]) -> None:
    places = np.arange(len(guess["true"]))
    true, guessed = (100 * np.asarray(guess[key], dtype=float) for key in ("true", "guessed"))
    axes.bar(places - 0.2, true, width=0.4, color=BLUE, label="true")
    axes.bar(places + 0.2, guessed, width=0.4, color=ORANGE, hatch="//", label="guessed",
             edgecolor="white", linewidth=0)  # fmt: skip
    ticks = names if len(names) == len(places) else [str(n) for n in places]
    few = len(places) <= 12 and max(map(len, ticks)) <= 12
    axes.set_xticks(places if few else places[:: max(1, len(places) // 10)])
    shown = [short(tick) for tick in ticks] if few else [str(n) for n in axes.get_xticks()]
    slanted = few and sum(map(len, shown)) > 20
    axes.set_xticklabels(shown, rotation=30 if slanted else 0, ha="right" if slanted else "center")
    axes.set_title(f"client {guess['client']}: KL {decimal(guess['kl'], 2)}, prior "
                   f"{decimal(guess['kl_prior'], 2)}")  # fmt: skip
    axes.set_ylabel("percent")


def ledger_pictures(result: dict[str, Any]) -> list[Picture]:
    """Return the budget by round, or nothing where no epsilon is finite."""
    ledger = result["ledger"]
    curves = [client["by_round"] for client in ledger["clients"]]
    if not any(value is not None for curve in curves for value in curve):
        return []
    with drawing():
        figure = new_figure(WIDTH, 400)
        axes = figure.add_subplot()
        for n, curve in enumerate(curves):
            values = [math.nan if value is None else value for value in curve]
            rounds = range(1, len(values) + 1)
            label, mark = "" if n else "one client", "o" if len(values) == 1 else ""
            axes.plot(rounds, values, mark + "-", color=BLUE, alpha=0.6, linewidth=1.2, label=label)
        if ledger["target_epsilon"] is not None:
            axes.axhline(ledger["target_epsilon"], color=ORANGE, linestyle="--", label="target")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("round")
        axes.set_ylabel("epsilon spent")
        axes.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside lower center", ncols=2)
    return [
        Picture(
            name="ledger",
            figure=figure,
            description="Epsilon spent by round, one line a client"
            + ("" if ledger["target_epsilon"] is None else ", with the target"),
            caption="Budget spent, one line a client. A round that would cross the target is "
            "refused.",
        )
    ]


def comparison_pictures(result: dict[str, Any]) -> list[Picture]:
    """Return exposure with and without, by number of insertions, or nothing."""
    other = result["comparison"]
    levels = [] if other is None else other["exposure_by_level"]
    drawn = [each for each in levels if None not in (each["plain"], each["protected"])]
    if not drawn:
        return []
    places = np.arange(len(drawn))
    with drawing():
        figure = new_figure(WIDTH, 400)
        axes = figure.add_subplot()
        axes.bar(places - 0.2, [each["plain"] for each in drawn], width=0.4, color=ORANGE,
                 label="other run")  # fmt: skip
        axes.bar(places + 0.2, [each["protected"] for each in drawn], width=0.4, color=GREEN,
                 hatch="//", edgecolor="white", linewidth=0, label="this run")  # fmt: skip
        floor = _floor(result)
        axes.axhline(floor, color=INK, linestyle=":", label="floor: no leak")
        axes.set_xticks(places, [str(each["insertions"]) for each in drawn])
        axes.set_xlabel("insertions of a canary")
        axes.set_ylabel("mean exposure in bits")
        figure.legend(loc="outside lower center", ncols=3)
    return [
        Picture(
            name="comparison",
            figure=figure,
            description="Bars of mean exposure by number of insertions, other run and this run",
            caption="The same canaries in both runs. Only what stands above the dotted floor "
            f"({floor:.2f} bits) is leakage.",
        )
    ]


def _floor(result: dict[str, Any]) -> float:
    """Return the mean exposure without a leak of the canaries that are compared, in bits."""
    found = [row["exposure_floor"] for row in result["channels"] if row["attack"] == ON_STUDENT]
    return next((floor for floor in found if floor is not None), FLOOR)
