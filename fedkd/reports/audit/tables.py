"""The tables of what attacks found, for HTML, Markdown and paper alike."""

from __future__ import annotations

from typing import Any

from fedkd.reports.audit.grid import Grid, Row, below
from fedkd.reports.audit.words import at_least, decimal, figure, interval, p_value, percent, plain
from fedkd.reports.page import NOTHING

RAN, EXACT = "ran", "exact"
SET_ASIDE = "set aside"
EXACT_RANK = "exact rank, nothing to extrapolate"


def channel_grid(result: dict[str, Any]) -> Grid:
    """Return the attacks that ran, one row each."""
    header = ("channel", "adversary", "attack", "n", "AUC", "TPR at 1 % FPR", "TPR at 0.1 % FPR")
    header += ("epsilon, at least", "exposure, bits", "p")
    return Grid(
        caption="What every attack reached; 95 % intervals, and below epsilon the most that the "
        "attack could have certified; p of the exposure or of the AUC; the verdict's limits say "
        "why an attack is set aside",
        header=header,
        rows=[_channel_row(row) for row in result["channels"] if row["status"] == RAN],
        numbers=frozenset(header[3:]),
    )


def _channel_row(row: dict[str, Any]) -> Row:
    exposed = row["exposure_mean"] is not None
    aside = "" if row["decides"] else SET_ASIDE
    span = f"floor {decimal(row['exposure_floor'], 2)}, cap {decimal(row['exposure_cap'], 2)}"
    ceiling = f"ceiling {at_least(row['eps_ceiling'])}" if row["eps_lb"] is not None else ""
    return [
        str(row["channel"]),
        str(row["adversary"]),
        below(row["attack"], str(row["at_risk"] or "")),
        plain(row["n"]),
        below(decimal(row["auc"], 3), interval(row["auc_ci"])),
        below(percent(row["tpr_at_fpr_01"]), interval(row["tpr_ci"], share=True)),
        below(percent(row["tpr_at_fpr_001"]), interval(row["tpr_001_ci"], share=True)),
        below(at_least(row["eps_lb"]), ceiling),
        below(decimal(row["exposure_mean"], 2), span if exposed else ""),
        below(p_value(row["exposure_p"] if exposed else row["auc_p"]), aside),
    ]


def not_run_grid(result: dict[str, Any]) -> Grid:
    """Return the attacks that did not run, with the reason."""
    return Grid(
        caption="Attacks that measured nothing, and why",
        header=("channel", "adversary", "attack", "status", "reason"),
        rows=[
            [
                *map(str, (r["channel"], r["adversary"], r["attack"], r["status"])),
                plain(r["reason"]),
            ]
            for r in result["channels"]
            if r["status"] != RAN
        ],
        numbers=frozenset(),
    )


def figures_grid(result: dict[str, Any]) -> Grid:
    """Return the measures that have no column of their own."""
    return Grid(
        caption="Other measures of success, beside what an adversary without the channel reaches",
        header=("attack", "channel", "measure", "value", "without the channel", "p"),
        rows=[
            [
                str(row["attack"]),
                str(row["channel"]),
                str(each["name"]),
                below(figure(each["value"]), interval(each["interval"])),
                figure(each["chance"]),
                p_value(each["p"]),
            ]
            for row in result["channels"]
            for each in row["figures"]
        ],
        numbers=frozenset({"value", "without the channel", "p"}),
    )


def levels_grid(result: dict[str, Any]) -> Grid:
    """Return exposure by number of insertions."""
    header = ("attack", "channel", "insertions", "canaries", "mean exposure, bits", "floor", "cap")
    return Grid(
        caption="Exposure by number of insertions, never pooled; p is the chance of ranks "
        "this good or better if nothing leaked",
        header=(*header, "p"),
        rows=[
            [
                str(row["attack"]),
                str(row["channel"]),
                plain(level["insertions"]),
                plain(level["n"]),
                below(decimal(level["mean"], 2), interval(level["ci"], digits=2)),
                decimal(level["floor"], 2),
                decimal(level["cap"], 2),
                p_value(level["p"]),
            ]
            for row in result["channels"]
            for level in row["levels"]
        ],
        numbers=frozenset((*header[2:], "p")),
    )


def extrapolation_grid(result: dict[str, Any]) -> Grid:
    """Return exposure beyond the cap of sampled secrets, where a fit of their losses allows it."""
    header = ("attack", "channel", "insertions", "at the cap", "gates open")
    header += ("bits by the fit", "bits by rank", "p of the fit")
    rows: list[Row] = []
    for row in result["channels"]:
        name = [str(row["attack"]), str(row["channel"])]
        if row["ranking"] == EXACT:
            rows.append([*name, "all", *[NOTHING] * (len(header) - 3), EXACT_RANK])
        else:
            rows += [[*name, *_beyond(level)] for level in row["levels"]]
    return Grid(
        caption="Exposure beyond the cap, of canaries that no drawn secret beats: extrapolated by "
        "a skew-normal fit to the drawn secrets where its gate is open (both p at least 0.05, and "
        "agreement with the rank), beside the level's mean exposure by rank, interpolated. The "
        "ceiling is log2 of all secrets. No test or bound uses the fit",
        header=(*header, "remark"),
        rows=rows,
        numbers=frozenset(header[2:]),
    )


def _beyond(level: dict[str, Any]) -> Row:
    found = level["extrapolation"]
    span = "" if found["opened"] < 2 else interval([found["low"], found["high"]], digits=2)
    limits = f"cap {decimal(level['cap'], 2)}"
    if found["ceiling"] is not None:
        limits += f", ceiling {decimal(found['ceiling'], 2)}"
    tail = "" if found["tail_p"] is None else f"tail {p_value(found['tail_p'])}"
    remark = "" if found["at_cap"] else "no canary is at the cap: its rank says enough"
    if found["reason"] is not None:
        remark = f"{found['at_cap'] - found['opened']} shut; the first: {found['reason']}"
    return [
        plain(level["insertions"]),
        f"{found['at_cap']} of {plain(level['n'])}",
        plain(found["opened"]),
        below(decimal(found["mean"], 2), span),
        below(decimal(level["mean"], 2), limits),
        below(p_value(found["fit_p"]), tail),
        remark,
    ]


def labels_grid(result: dict[str, Any]) -> Grid:
    """Return how well each client's label distribution was guessed."""
    return Grid(
        caption="Label distributions: distance of the guess from the truth; 0 is a perfect guess",
        header=("client", "attack", "channel", "KL, nats", "KL of the prior alone"),
        rows=[
            [
                plain(guess["client"]),
                str(row["attack"]),
                str(row["channel"]),
                decimal(guess["kl"], 3),
                decimal(guess["kl_prior"], 3),
            ]
            for row in result["channels"]
            for guess in row["labels"]
        ],
        numbers=frozenset({"KL, nats", "KL of the prior alone"}),
    )


def canaries_grid(result: dict[str, Any]) -> Grid:
    """Return the canaries as they were registered before training."""
    return Grid(
        caption="Canaries as they were registered before training",
        header=("canary", "insertions", "holders", "what was planted"),
        rows=[
            [plain(each[key]) for key in ("number", "insertions", "holders", "words")]
            for each in result["canaries"]
        ],
        numbers=frozenset({"insertions"}),
    )
