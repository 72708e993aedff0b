"""The claims box of an audit report: what is proved, what is measured, and what lies between.

Its color rests on the formal epsilon, the lower bounds and the verdict on them, never on an
average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedkd.reports.audit.words import at_least, at_most
from fedkd.reports.page import NOTHING, Tile, Tone

WEAK = 10.0
"""A formal epsilon above this is called weak: an adversary's odds may change 22,000-fold."""
FOUND = "leak found"


@dataclass(frozen=True, kw_only=True)
class ClaimsBox:
    """What the box says.

    Attributes:
        tone: its color.
        head: the same in words.
        sentence: from the claims engine, as it is.
        tiles: formal epsilon, lower bound, gap, ceiling.
        notes: the claims engine's warnings and what was compared.
    """

    tone: Tone
    head: str
    sentence: str
    tiles: tuple[Tile, ...]
    notes: tuple[str, ...]


def claims_box(result: dict[str, Any]) -> ClaimsBox:
    """Return the box of an audit."""
    claim, bounds = result["claim"], _bounds(result)
    formal, counted = claim["epsilon"], [row for row in bounds if row["decides"]]
    best = next(iter(counted or bounds), None)
    comparable = [row for row in bounds if _comparable(row, claim)]
    rival = comparable[0] if comparable else None
    tone, head = _judged(result, best, rival)
    notes = [str(warning) for warning in claim["warnings"]]
    if formal is not None and best is not None and rival is not best:
        notes.append(
            f"The largest lower bound is for {best['eps_unit'] or 'a change that is not stated'}; "
            f"the formal epsilon is for one {claim['unit']}. The two must not be compared."
        )
    return ClaimsBox(
        tone=tone,
        head=head,
        sentence=claim["sentence"],
        tiles=(
            _formal_tile(claim),
            _bound_tile(best, len(counted or bounds)),
            _gap_tile(formal, rival),
            _ceiling_tile(counted or bounds),
        ),
        notes=tuple(notes),
    )


def _bounds(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows with a lower bound, the largest first."""
    measured = [row for row in result["channels"] if row["eps_lb"] is not None]
    return sorted(measured, key=lambda row: -row["eps_lb"])


def _comparable(row: dict[str, Any], claim: dict[str, Any]) -> bool:
    """Return whether a bound is about the claim's unit, at its delta or a larger one."""
    unit, delta = claim["unit"], row["eps_delta"]
    if not unit or str(unit).lower() not in str(row["eps_unit"] or "").lower():
        return False
    return delta is not None and delta >= (claim["delta"] or 0.0)


def _judged(
    result: dict[str, Any], best: dict[str, Any] | None, rival: dict[str, Any] | None
) -> tuple[Tone, str]:
    formal, shown = result["claim"]["epsilon"], 0.0 if best is None else best["eps_lb"]
    if formal is None:
        counts = best is not None and best["decides"]
        return _judged_unproved(result, best if counts else None)
    if rival is not None and rival["eps_lb"] > formal:
        return Tone.BAD, (
            f"The audit contradicts the formal guarantee: epsilon is at least "
            f"{at_least(rival['eps_lb'])} (at 95 %, this bound by itself), the guarantee says "
            f"{at_most(formal)}"
        )
    if shown > formal:
        return Tone.MILD, (
            f"Formal guarantee with epsilon {at_most(formal)}; a lower bound of {at_least(shown)} "
            "was measured for another unit"
        )
    measured = (
        "nothing was measured against it" if best is None else "the audit does not contradict it"
    )
    if formal > WEAK:
        return Tone.MILD, f"Weak formal guarantee: epsilon {at_most(formal)}; {measured}"
    return Tone.GOOD, f"Formal guarantee with epsilon {at_most(formal)}; {measured}"


def _judged_unproved(result: dict[str, Any], best: dict[str, Any] | None) -> tuple[Tone, str]:
    if best is None:
        return Tone.PLAIN, "No formal guarantee, and no lower bound was measured on the run itself"
    if best["eps_lb"] <= 0 and result["verdict"]["grade"] == FOUND:
        return (
            Tone.MILD,
            "No formal guarantee, and a leak was found; it certifies no epsilon above 0",
        )
    if best["eps_lb"] <= 0:
        return Tone.PLAIN, (
            "No formal guarantee; the attacks certify no epsilon above 0, which proves no safety"
        )
    certified = f"epsilon is at least {at_least(best['eps_lb'])}"
    if result["verdict"]["grade"] == FOUND:
        return (
            Tone.BAD,
            f"No formal guarantee, and a leak is certified: {certified}",
        )
    return Tone.MILD, (
        f"No formal guarantee; one attack's bound says {certified}, which chance may do when many "
        "are tried"
    )


def _formal_tile(claim: dict[str, Any]) -> Tile:
    if claim["epsilon"] is None:
        return Tile(name="formal epsilon", value="none", more="nothing is proved")
    delta = "" if claim["delta"] is None else f"at delta {claim['delta']:g}, "
    return Tile(
        name="formal epsilon, at most",
        value=at_most(claim["epsilon"]),
        more=f"{delta}of one {claim['unit'] or 'unit that is not stated'}",
    )


def _bound_tile(best: dict[str, Any] | None, n_bounds: int) -> Tile:
    name = "empirical lower bound on epsilon"
    if best is None:
        return Tile(name=name, value=NOTHING, more="not measured")
    others = f", the largest of {n_bounds}" if n_bounds > 1 else ""
    return Tile(
        name=name,
        value=at_least(best["eps_lb"]),
        more=f"95 % confidence{others}: {best['channel']}, {best['attack']}",
    )


def _gap_tile(formal: Any, rival: dict[str, Any] | None) -> Tile:
    if formal is None:
        return Tile(name="gap", value=NOTHING, more="there is no formal epsilon")
    if rival is None:
        return Tile(name="gap", value=NOTHING, more="no lower bound for the same unit and delta")
    gap = formal - rival["eps_lb"]
    meaning = "neither proved nor refuted" if gap >= 0 else "below 0: the guarantee is refuted"
    more = f"down to {at_least(rival['eps_lb'])}, the largest bound for the same unit; {meaning}"
    return Tile(name="gap", value=f"{gap:z.2f}", more=more)


def _ceiling_tile(bounds: list[dict[str, Any]]) -> Tile:
    ceilings = [row["eps_ceiling"] for row in bounds if row["eps_ceiling"] is not None]
    if not ceilings:
        return Tile(name="the audit's own ceiling", value=NOTHING, more="not measured")
    return Tile(
        name="the audit's own ceiling",
        value=at_least(max(ceilings)),
        more="the most a perfect attack could have certified",
    )
