"""The numbers of a run's report: results, bytes, clients, failures, rounds, confusion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from fedkd.reports.page import NOTHING, Html, Tile, table, tiles
from fedkd.reports.privacy_explanation import ranges
from fedkd.reports.run.facts import RunFacts
from fedkd.reports.terminal import share, size
from fedkd.results import Failure, RoundResult

KINDS = {
    "proxy": "inputs of the proxy set",
    "knowledge": "scores of clients",
    "consensus": "scores from the server",
    "masks": "which rows, and weights",
    "update": "parameters",
    "keys": "public keys of masked sums",
    "masked": "masked counts and scores",
    "control": "everything else",
}


def result_tiles(summary: dict[str, Any]) -> Html:
    """Return what came out of a run, one large number each; what was not measured has none."""
    return tiles(list(_tiles(summary)))


def _tiles(s: dict[str, Any]) -> Iterator[Tile]:
    if s["bits_per_character_mean"] is not None:
        more = _bits("after distilling", s["bits_per_character_distilled_mean"])
        yield Tile(
            name="Bits per character, clients (mean)",
            value=f"{s['bits_per_character_mean']:.3f}",
            more=f"lower is better{more}",
        )
    if s["server_bits_per_character"] is not None:
        yield Tile(
            name="Bits per character, server model", value=f"{s['server_bits_per_character']:.3f}"
        )
    yield Tile(
        name="Client models (mean)",
        value=share(s["accuracy_mean"]),
        more=f"worst {share(s['accuracy_worst'])}, on the test set",
    )
    for key, name, more in (
        ("accuracy_distilled_mean", "After a last exchange", "mean of client models"),
        ("accuracy_local_mean", "On own held-out examples", "mean of client models"),
        ("teacher_accuracy", "Teacher (consensus)", "on the proxy rows it covers"),
        ("server_accuracy", "Server model", "on the test set"),
        ("coverage", "Coverage", "proxy rows with a keeper"),
    ):
        if s[key] is not None:
            yield Tile(name=name, value=share(s[key]), more=more)
    yield Tile(name="Sent", value=size(s["bytes_up"] + s["bytes_down"]), more=_directions(s))


def _bits(words: str, value: float | None) -> str:
    return "" if value is None else f"; {words} {value:.3f}"


def _directions(s: dict[str, Any]) -> str:
    return f"{size(s['bytes_up'])} up, {size(s['bytes_down'])} down"


def bytes_table(summary: dict[str, Any]) -> Html:
    """Return the bytes of the whole run by kind and direction."""
    up, down = (summary["bytes_by_kind"][direction] for direction in ("up", "down"))
    kinds = sorted(up.keys() | down.keys(), key=lambda k: -(up.get(k, 0) + down.get(k, 0)))
    rows = [
        [f"{kind}\n{KINDS[kind]}" if kind in KINDS else kind, _size(up, kind), _size(down, kind)]
        for kind in kinds
    ]
    rows.append(["all", size(summary["bytes_up"]), size(summary["bytes_down"])])
    return table(
        ["kind", "to the server", "to the clients"],
        rows,
        caption="Serialized bytes, all clients and rounds together",
        numbers=("to the server", "to the clients"),
    )


def _size(sizes: dict[str, int], kind: str) -> str:
    return size(sizes[kind]) if kind in sizes else NOTHING


def client_table(found: RunFacts) -> Html:
    """Return what became of every client: measurements as of its last round that has them."""
    measured = set(found.table["name"])
    columns = {
        title: name
        for title, name in (
            ("bits per character", "bits_per_character"),
            ("accuracy", "accuracy"),
            ("own held-out", "accuracy_local"),
            ("after a last exchange", "accuracy_distilled"),
        )
        if name in measured
    }
    models = found.scenario.client_models()
    rounds = Counter(client for result in found.rounds for client in result.cohort)
    failed = Counter(f.client for result in found.rounds for f in result.failures)
    left_out = Counter(client for result in found.rounds for client in result.left_out)
    spent = {row["client"]: row["epsilon"] for row in found.privacy["clients"]}
    header = ["client", "model", *columns, "rounds", "failures", "left out", "epsilon"]
    by_name = {name: _last(found.table, name) for name in columns.values()}
    rows = [
        [
            f"client {client}",
            models[client],
            *[_figure(name, by_name[name].get(client)) for name in columns.values()],
            str(rounds[client]),
            str(failed[client]),
            str(left_out[client]) if left_out[client] else NOTHING,
            _epsilon(spent, client),
        ]
        for client in found.scenario.participants()
    ]
    caption = (
        "Accuracies are on the test set and on own held-out examples, from the last round that "
        "measured them; rounds: how often a client was asked"
    )
    if any(value is not None for value in spent.values()):
        caption += "; epsilon: spent so far"
    return _without_empty(header, rows, caption=caption, words=("model",))


def _without_empty(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, words: Sequence[str] = ()
) -> Html:
    """Return a table without the columns that say nothing in any row; all but ``words`` numbers."""
    used = [n for n in range(len(header)) if n == 0 or any(row[n] != NOTHING for row in rows)]
    return table(
        [header[n] for n in used],
        [[row[n] for n in used] for row in rows],
        caption=caption,
        numbers=[name for name in header[1:] if name not in words],
    )


def _last(measurements: Any, name: str) -> dict[int, float]:
    rows = measurements[measurements["name"] == name].sort_values("round", kind="stable")
    return {
        int(client): float(value)
        for client, value in zip(rows["client"], rows["value"], strict=True)
    }


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.3f}" if name.startswith("bits") else share(value)


def _epsilon(spent: dict[int, float | None], client: int) -> str:
    value = spent.get(client)
    return NOTHING if value is None else f"{value:.4g}"


def failure_table(rounds: Sequence[RoundResult]) -> Html:
    """Return which client failed when and why, equal reasons together; nothing when none did."""
    failures = [failure for result in rounds for failure in result.failures]
    return _reasons(failures, caption="Clients that were asked and gave nothing usable")


def refused_table(rounds: Sequence[RoundResult]) -> Html:
    """Return what came beside the upload that counted, by round and reason; nothing for none."""
    refused = [failure for result in rounds for failure in result.refused]
    return _reasons(refused, caption="Deliveries that were refused; they changed nothing")


def _reasons(failures: Sequence[Failure], *, caption: str) -> Html:
    reasons: dict[tuple[int, str], list[int]] = {}
    for failure in failures:
        reasons.setdefault((failure.round, failure.reason), []).append(failure.client)
    if not reasons:
        return Html("")
    rows = [[str(n), ranges(sorted(set(who))), why] for (n, why), who in reasons.items()]
    return table(["round", "clients", "reason"], rows, caption=caption)


def stood_in_table(rounds: Sequence[RoundResult]) -> Html:
    """Return whose late upload was used in which round; nothing when none was."""
    rows = [[str(result.round), ranges(result.stood_in)] for result in rounds if result.stood_in]
    if not rows:
        return Html("")
    caption = "Late uploads of the round before that stood in for their clients"
    return table(["round", "clients"], rows, caption=caption)


def left_out_table(rounds: Sequence[RoundResult]) -> Html:
    """Return who was left out for a spent privacy budget, by round; nothing when nobody was."""
    rows = [
        [str(result.round), ranges(sorted(result.left_out))] for result in rounds if result.left_out
    ]
    if not rows:
        return Html("")
    return table(
        ["round", "clients"], rows, caption="Left out: the round would exceed their privacy budget"
    )


def round_table(rounds: Sequence[RoundResult]) -> Html:
    """Return one line a round: who took part, the figures of merit, bytes and seconds."""
    header = [
        "round", "clients", "accuracy", "bits", "teacher", "server", "coverage", "keepers", "up",
        "down", "withheld", "attempts", "virtual s", "J", "seconds",
    ]  # fmt: skip
    caption = "Means over clients where there are several values; round 0 is set-up"
    return _without_empty(header, [_round(result) for result in rounds], caption=caption)


def _round(result: RoundResult) -> list[str]:
    values: dict[str, list[float]] = {}
    for m in result.measurements:
        values.setdefault(m.name, []).append(m.value)
    sent = {
        way: sum(sum(v) for name, v in values.items() if name.startswith(f"bytes_{way}."))
        for way in ("up", "down")
    }

    def shown(name: str, form: str = "share") -> str:
        if name not in values:
            return NOTHING
        mean = sum(values[name]) / len(values[name])
        return share(mean) if form == "share" else format(mean, form)

    return [
        str(result.round),
        str(len(result.cohort)),
        shown("accuracy"),
        shown("bits_per_character", ".3f"),
        shown("teacher_accuracy"),
        shown("server_accuracy"),
        shown("coverage"),
        shown("keepers_per_row", ".2f"),
        size(int(sent["up"])),
        size(int(sent["down"])),
        shown("rows_withheld", ".0f"),
        shown("attempts", ".0f"),
        shown("virtual_seconds", ".3g"),
        shown("energy_j", ".4g"),
        shown("seconds", ".2f"),
    ]
