"""The tables of what attacks found, for HTML, Markdown and paper alike."""

from __future__ import annotations

from typing import Any

from fedkd.reports.audit.grid import Grid, Row, below
from fedkd.reports.audit.words import at_least, decimal, figure, interval, p_value, percent, plain

RAN = "ran"


def channel_grid(result: dict[str, Any]) -> Grid:
    """Return the attacks that ran, one row each."""
    header = ("channel", "adversary", "attack", "n", "AUC", "TPR at 1 % FPR", "TPR at 0.1 % FPR")
    header += ("epsilon, at least", "exposure, bits", "exposure p")
    return Grid(
        caption="What every attack reached; 95 % intervals, and below epsilon the most that the "
        "attack could have certified",
        header=header,
        rows=[_channel_row(row) for row in result["channels"] if row["status"] == RAN],
        numbers=frozenset(header[3:]),
    )


def _channel_row(row: dict[str, Any]) -> Row:
    exposed = row["exposure_mean"] is not None
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
        p_value(row["exposure_p"]),
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
