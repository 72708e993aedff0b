"""Numbers and explanations of audit reports in words, the same in every form of a report."""

from __future__ import annotations

import json
import math
from typing import Any

from fedkd.reports.page import NOTHING

THREATS = {
    "server": "honest but curious server: follows the protocol, keeps every upload of every round "
    "(under server_view=sums only masked uploads and their sums) and the proxy set",
    "client": "honest but curious client: keeps the proxy set, with its own rows marked, and the "
    "consensus of every round",
    "student holder": "student holder: has the final student model and nothing else",
}
GLOSSARY = (
    ("epsilon, delta", "The strength of a formal guarantee: whatever an adversary concludes, it "
     "would have concluded almost as likely without one person's data; e to the power of epsilon "
     "is the largest factor, delta the chance that even that fails. Smaller is better; above 10 "
     "it says little."),
    ("lower bound on epsilon", "The other side, measured: attacks succeeded so often that no "
     "smaller epsilon can be true, at the stated confidence. Zero means nothing was shown, never "
     "that nothing leaks."),
    ("ceiling", "The largest lower bound that a perfect attack could have reached with so few "
     "canaries or records. A ceiling below the formal epsilon cannot contradict it."),
    ("gap", "Formal epsilon less measured lower bound: what neither the proof nor the attacks "
     "decide."),
    ("unit of privacy, neighboring relation", "Whose data may change (one record, or all data of "
     "one client), and how (added or removed, or replaced) between two data sets that nobody may "
     "tell apart. Epsilons of different units must not be compared."),
    ("channel", "A place where something leaves: uploads, the consensus, the final student, side "
     "channels such as sizes and masks."),
    ("adversary", "Who looks, and therefore what is seen. An attack may read only that."),
    ("membership inference", "Telling whether a given record was used in training."),
    ("AUC", "The chance that an attack ranks a random member above a random non-member: 0.5 is "
     "guessing, 1 is certainty. An average: it can look harmless while a few people are exposed."),
    ("TPR at 1 % FPR", "The share of members an attack finds while it accuses at most 1 % of the "
     "non-members. Guessing reaches 1 %."),
    ("canary", "A made-up record with a random secret, planted before training to see whether the "
     "secret comes back."),
    ("insertions", "How often a canary was planted. Text that stands in the data many times leaks "
     "more."),
    ("exposure", "How far up a canary's true secret ranks among all possible ones, in bits; one "
     "more bit is twice as far up. Without any leak the mean is the floor: 1.44 bits among many "
     "secrets, less among few. The cap is reached when the secret ranks first."),
    ("extrapolated exposure", "Sampling cannot show more than its cap. Where a curve fitted to the "
     "sampled secrets passes its tests (the gate), it says how far beyond a canary probably is; "
     "it is an estimate and no proof, never above the ceiling, all secrets there are."),
    ("p", "The chance of a result like this, or a stronger one, if nothing leaked."),
    ("KL", "How far a guessed label distribution is from the true one, in nats; 0 is a perfect "
     "guess. The prior guesses without the channel."),
    ("interval", "The range that holds the true value in about 95 of 100 audits of this kind, if "
     "scores are independent. That of a TPR is about the threshold that was found: how many false "
     "alarms it truly raises is not in it."),
)  # fmt: skip


def decimal(value: Any, digits: int) -> str:
    """Return a number with so many decimals, or a dash for what was not measured."""
    return NOTHING if value is None else f"{value:z.{digits}f}"


def percent(value: Any) -> str:
    """Return a share in percent with one decimal."""
    return NOTHING if value is None else f"{100 * value:z.1f} %"


def interval(ends: Any, *, share: bool = False, digits: int = 3) -> str:
    """Return ``low to high``, or nothing when there is no interval."""
    if not ends or None in ends:
        return ""
    low, high = (percent(end) if share else decimal(end, digits) for end in ends)
    return f"{low} to {high}"


def p_value(p: Any) -> str:
    """Return a p-value with three decimals."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def at_least(epsilon: Any) -> str:
    """Return a lower bound with two decimals, rounded down: it must stay a lower bound."""
    return NOTHING if epsilon is None else f"{math.floor(epsilon * 100 + 1e-9) / 100:.2f}"


def at_most(epsilon: Any) -> str:
    """Return a formal epsilon with two decimals, rounded up: it must stay an upper bound."""
    return NOTHING if epsilon is None else f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}"


def figure(value: Any) -> str:
    """Return any other number with four significant digits."""
    return NOTHING if value is None else f"{value:z.4g}"


def plain(value: Any) -> str:
    """Return plain data in one line: text as it is, anything else as JSON without quotes."""
    if isinstance(value, str):
        return value or NOTHING
    if value is None:
        return NOTHING
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or NOTHING
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or NOTHING
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def component(described: Any) -> str:
    """Return a described component as ``name (setting value, ...)``."""
    if not isinstance(described, dict) or "name" not in described:
        return plain(described)
    settings = {key: value for key, value in described.items() if key != "name"}
    return f"{described['name']} ({plain(settings)})" if settings else str(described["name"])


def adversary_words(name: str) -> str:
    """Return what an adversary sees, or its name when it is not one of ours."""
    return THREATS.get(name, name)


def _power(detectable: Any) -> str:
    """Return what a bound of 0 rules out."""
    if detectable is None:
        return "its power is below 80 % whatever leaks"
    return (
        f"its power is 80 % where a perfect attack meets a true epsilon of {at_most(detectable)}, "
        "less below"
    )


def footnotes(result: dict[str, Any]) -> list[str]:
    """Return the statistical notes: the audit's own, then n, rule and power of every bound."""
    notes = [str(note) for note in result["footnotes"]]
    bounds = [row for row in result["channels"] if row["eps_lb"] is not None]
    for row in bounds:
        where = f"{row['channel']}, {row['adversary']}, {row['attack']}"
        delta = "" if row["eps_delta"] is None else f" at delta {row['eps_delta']:g}"
        notes.append(
            f"{where}: threshold rule: {row['eps_rule'] or 'not stated'}; epsilon is about "
            f"{row['eps_unit'] or 'a change that is not stated'}{delta}; with n = "
            f"{plain(row['n'])} this audit can certify at most epsilon "
            f"{at_least(row['eps_ceiling'])}; {_power(row['eps_detectable'])}."
        )
    if len(bounds) > 1:
        jointly = max(0, 100 - 5 * len(bounds))
        notes.append(
            f"{len(bounds)} lower bounds are shown, each at 95 % confidence by itself"
            + (f"; all of them hold together at {jointly} % or more." if jointly else ".")
            + " Intervals and p-values are for each figure by itself, too."
        )
    return notes
