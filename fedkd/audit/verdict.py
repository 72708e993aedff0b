"""The verdict in plain words, graded from corrected p-values and never from an average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ALPHA = 0.05
LEAST_CEILING = 0.5
LEAK, NO_LEAK, UNKNOWN = "leak found", "no leak found", "could not tell"


@dataclass(frozen=True, kw_only=True)
class LeakTest:
    """One test of "nothing leaks here".

    Attributes:
        channel: where.
        attack: by what.
        words: what would have leaked, with its figure.
        p: one-sided.
    """

    channel: str
    attack: str
    words: str
    p: float


def leak_tests(rows: Sequence[dict[str, Any]]) -> list[LeakTest]:
    """Return the tests of the rows that decide: one a measurement, fixed before it is seen.

    Exposure is tested by its exact law at each number of insertions, the most first, membership by
    Mann and Whitney's p, any other figure by its own. A bound of an attack's own is a test at 5 %.
    """
    found: list[LeakTest] = []
    for row in rows:
        if not row["decides"]:
            continue
        where = {"channel": row["channel"], "attack": row["attack"]}
        for level in reversed(row["levels"]):
            words = f"{row['at_risk']} inserted {_times(level['insertions'])}, exposure "
            words += f"{level['mean']:.2f} bits (floor {level['floor']:.2f})"
            found.append(LeakTest(**where, words=words, p=level["p"]))
        if row["auc"] is not None:
            words = f"{row['at_risk']}, AUC {row['auc']:.3f}"
            found.append(LeakTest(**where, words=words, p=row["auc_p"]))
        for figure in row["figures"]:
            if figure["p"] is not None:
                words = f"{figure['name']}: {figure['value']:.3g} (chance {figure['chance']:.3g})"
                found.append(LeakTest(**where, words=words, p=figure["p"]))
        if row["eps_lb"] is not None and row["exposure_p"] is None and row["auc"] is None:
            words = f"{row['at_risk']}, epsilon at least {row['eps_lb']:.2f}"
            found.append(LeakTest(**where, words=words, p=ALPHA if row["eps_lb"] > 0 else 1.0))
    return found


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given: up to alpha is significant at alpha."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, worst = [1.0] * len(p), 0.0
    for place, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = worst
    return adjusted


def verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return ``grade``, ``sentence`` and ``limits``."""
    done = leak_tests(rows)
    adjusted = holm([test.p for test in done])
    leaks = [test for test, p in zip(done, adjusted, strict=True) if p <= ALPHA]
    reach = max((row["eps_ceiling"] or 0.0 for row in rows if row["decides"]), default=0.0)
    corrected = f"at {ALPHA:.0%}, Holm-corrected over {len(done)} tests"
    if leaks:
        first = {(t.channel, t.attack): t for t in reversed(leaks)}
        named = "; ".join(f"{t.channel}: {t.words} ({t.attack})" for t in reversed(first.values()))
        grade = LEAK
        sentence = f"Private information leaks through {_named(leaks)} ({corrected}). {named}."
    elif not done:
        grade = UNKNOWN
        sentence = f"No attack{_that_decides(rows)} ran, so nothing can be said about leakage."
    elif reach < LEAST_CEILING:
        grade = UNKNOWN
        did = f"No attack{_of_these(rows)} found anything ({corrected})"
        sentence = (
            f"{did}, but even a perfect one could have certified "
            f"no more than epsilon {reach:.2f}: the audit is too small to tell."
        )
    else:
        grade = NO_LEAK
        did = f"No attack{_of_these(rows)} did better than chance ({corrected})."
        sentence = f"{did} This is no proof: others may."
    return {"grade": grade, "sentence": sentence, "limits": _limits(rows)}


def _named(leaks: Sequence[LeakTest]) -> str:
    return ", ".join(dict.fromkeys(f"the channel {test.channel!r}" for test in leaks))


def _of_these(rows: Sequence[dict[str, Any]]) -> str:
    """Return which attacks are meant, where others ran that are set aside."""
    aside = any(row["status"] == "ran" and not row["decides"] for row in rows)
    return " that decides" if aside else ""


def _that_decides(rows: Sequence[dict[str, Any]]) -> str:
    return " that decides" if any(row["status"] == "ran" for row in rows) else ""


def _limits(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        f"{row['attack']}: a perfect attack on so many ({row['n']}) certifies epsilon "
        f"{row['eps_ceiling']:.2f} at most ({row['eps_unit']})"
        for row in rows
        if row["eps_ceiling"] is not None and row["decides"]
    ]
    lines += [
        f"{row['attack']}: does not decide the verdict: {row['decides_reason']}"
        for row in rows
        if row["status"] == "ran" and not row["decides"]
    ]
    for status in ("failed", "not seen", "not applicable"):
        lines += [f"{r['attack']}: {status}: {r['reason']}" for r in rows if r["status"] == status]
    return lines
