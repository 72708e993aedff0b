"""The tables of a whole run in an audit report: budget, utility, and what protection changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedkd.reports.audit.grid import Grid, Row, below
from fedkd.reports.audit.words import (
    at_least,
    at_most,
    decimal,
    figure,
    interval,
    p_value,
    percent,
    plain,
)
from fedkd.reports.page import NOTHING

SHOWN_ROUNDS = 12
"""So many rounds of a ledger are printed; the others are in audit.json."""
UTILITY = {
    "accuracy_mean": "clients' accuracy",
    "server_accuracy": "server model's accuracy",
    "bits_per_character_mean": "clients' bits per character",
    "server_bits_per_character": "server model's bits per character",
}
SHARES = {"accuracy_mean", "server_accuracy"}


def ledger_grid(result: dict[str, Any]) -> Grid:
    """Return what each client spent, may still spend, and would spend next."""
    target = result["ledger"]["target_epsilon"]
    header = ("client", "releases", "epsilon spent", "remaining", "next round, if like the last")
    rows: list[Row] = []
    for client in result["ledger"]["clients"]:
        spent = client["epsilon"]
        left = None if spent is None or target is None else max(0.0, target - spent)
        rows.append(
            [
                plain(client["client"]),
                plain(client["releases"]),
                at_most(spent),
                at_least(left),
                at_most(_last_cost(client["by_round"])),
            ]
        )
    limit = "no target was set, so no round is refused"
    if target is not None:
        limit = f"a client refuses a round that would take it above {target:g}"
    return Grid(
        caption=f"Budget by client, in epsilon of one {plain(result['ledger']['unit'])}; {limit}",
        header=header,
        rows=rows,
        numbers=frozenset(header[1:]),
    )


def _last_cost(by_round: Sequence[float | None]) -> float | None:
    known = [value for value in by_round if value is not None]
    if not known:
        return None
    return known[-1] - (known[-2] if len(known) > 1 else 0.0)


def ledger_rounds_grid(result: dict[str, Any]) -> Grid:
    """Return epsilon after rounds, one row a client, at most a dozen rounds; none if unbounded."""
    clients = [
        client
        for client in result["ledger"]["clients"]
        if any(value is not None for value in client["by_round"])
    ]
    n_rounds = max((len(client["by_round"]) for client in clients), default=0)
    parts = range(1, SHOWN_ROUNDS + 1)
    shown = range(n_rounds)
    if n_rounds > SHOWN_ROUNDS:
        shown = [-(-n_rounds * part // SHOWN_ROUNDS) - 1 for part in parts]
    some = f"; {len(shown)} of {n_rounds} rounds, all are in audit.json"
    header = ("client", *(f"round {n + 1}" for n in shown))
    return Grid(
        caption="Epsilon spent after each round" + (some if len(shown) < n_rounds else ""),
        header=header,
        rows=[
            [
                plain(client["client"]),
                *(at_most(spent[n] if n < len(spent) else None) for n in shown),
            ]
            for client in clients
            for spent in [client["by_round"]]
        ],
        numbers=frozenset(header[1:]),
    )


def comparison_grid(result: dict[str, Any]) -> Grid:
    """Return utility and leakage of this run beside those of the run it is compared with."""
    other = result["comparison"]
    rows = [
        [
            name,
            "utility",
            _utility(key, here),
            _utility(key, there),
            _change(key, here, there),
            NOTHING,
        ]
        for key, name in UTILITY.items()
        for here, there in [(result["utility"].get(key), other["utility"].get(key))]
        if here is not None or there is not None
    ]
    for row in other["rows"]:
        place = f"{row['channel']}, {row['adversary']}, {row['attack']}"
        numbers = (figure(row["here"]), figure(row["there"]), figure(row["change"]))
        rows.append([below(row["figure"], place), "leakage", *numbers, p_value(row["p"])])
    header = ("figure", "kind", "this run", "other run", "change", "p")
    return Grid(
        caption="Utility beside leakage: this run and the run it is compared with",
        header=header,
        rows=rows,
        numbers=frozenset(header[2:]),
    )


def reduction_grid(result: dict[str, Any]) -> Grid:
    """Return how much of the exposure above the floor is gone, by number of insertions."""
    header = ("insertions", "other run, bits", "this run, bits", "reduction above the floor")
    return Grid(
        caption="Mean exposure of the same canaries in both runs",
        header=header,
        rows=[
            [
                plain(level["insertions"]),
                decimal(level["plain"], 2),
                decimal(level["protected"], 2),
                below(
                    percent(level["reduction"]),
                    interval(level["ci"], share=True) or str(level["reason"] or ""),
                ),
            ]
            for level in result["comparison"]["exposure_by_level"]
        ],
        numbers=frozenset(header[1:]),
    )


def utility_facts(result: dict[str, Any]) -> list[tuple[str, object]]:
    """Return how good the run's models are, as far as it was measured."""
    measured = result["utility"]
    return [
        (name, _utility(key, measured.get(key)))
        for key, name in UTILITY.items()
        if measured.get(key) is not None
    ]


def _utility(key: str, value: Any) -> str:
    return percent(value) if key in SHARES else decimal(value, 3)


def _change(key: str, here: Any, there: Any) -> str:
    if here is None or there is None:
        return NOTHING
    change = here - there
    return f"{100 * change:+z.1f} points" if key in SHARES else f"{change:+z.3f}"
