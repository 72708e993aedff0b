"""The claims box: its color and words follow from epsilon, lower bounds and verdict alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedkd.reports.audit.claims import claims_box
from fedkd.reports.audit.roc import frontier
from fedkd.reports.audit.words import at_least, at_most
from fedkd.reports.page import Tone
from tests.fedkd.reports import audit_sample

RECORD, CANARY = "adding or removing one record", "replacing one holder's canary examples"


def _result(
    formal: float | None, bounds: list[tuple[float, str]], grade: str = "no leak found"
) -> dict[str, Any]:
    result = audit_sample.minimal()
    if formal is not None:
        result["claim"] |= {"level": 2, "epsilon": formal, "delta": 1e-5, "unit": "record"}
    result["verdict"]["grade"] = grade
    result["channels"] = [
        audit_sample.blank("uploads", "server", f"attack{n}")
        | {"n": 100, "eps_lb": bound, "eps_ceiling": 4.2, "eps_delta": 1e-5}
        | {"eps_unit": unit, "auc": 0.99}
        for n, (bound, unit) in enumerate(bounds)
    ]
    return result


@pytest.mark.parametrize(
    ("formal", "bounds", "grade", "tone", "words"),
    [
        (None, [], "could not tell", Tone.PLAIN, "no lower bound was measured"),
        (None, [(0.0, RECORD)], "no leak found", Tone.PLAIN, "proves no safety"),
        (None, [(0.0, RECORD)], "leak found", Tone.MILD, "a leak was found"),
        (None, [(0.8, RECORD)], "no leak found", Tone.MILD, "chance may do"),
        (None, [(0.8, RECORD)], "leak found", Tone.BAD, "a leak is certified"),
        (2.0, [(0.0, RECORD)], "no leak found", Tone.GOOD, "does not contradict it"),
        (2.0, [(1.9, RECORD)], "leak found", Tone.GOOD, "does not contradict it"),
        (2.0, [(2.1, RECORD)], "leak found", Tone.BAD, "contradicts the formal guarantee"),
        (2.0, [(2.1, CANARY)], "leak found", Tone.MILD, "for another unit"),
        (2.0, [], "could not tell", Tone.GOOD, "nothing was measured against it"),
        (12.0, [(0.0, RECORD)], "no leak found", Tone.MILD, "Weak formal guarantee"),
    ],
)
def test_tone_and_words(formal, bounds, grade, tone, words):
    said = claims_box(_result(formal, bounds, grade))
    assert said.tone is tone
    assert words in said.head


def test_an_average_never_changes_the_color():
    for grade in ("leak found", "no leak found"):
        result = _result(None, [(0.0, RECORD)], grade)
        before = claims_box(result)
        result["channels"][0] |= {"auc": 0.5, "exposure_mean": 9.9, "tpr_at_fpr_01": 1.0}
        assert claims_box(result) == before


def test_a_bound_that_is_set_aside_certifies_no_leak():
    result = _result(None, [(2.8, RECORD), (0.0, RECORD)], "no leak found")
    result["channels"][0]["decides"] = False
    said = claims_box(result)
    assert said.tone is Tone.PLAIN
    assert said.tiles[1].value == "0.00"
    result["channels"] = result["channels"][:1]
    assert "no lower bound was measured on the run itself" in claims_box(result).head


def test_the_gap_is_to_the_largest_bound_of_the_same_unit():
    said = claims_box(_result(4.0, [(1.5, RECORD), (0.2, RECORD), (3.0, CANARY)]))
    values = {tile.name: tile for tile in said.tiles}
    assert values["formal epsilon, at most"].value == "4.00"
    assert values["empirical lower bound on epsilon"].value == "3.00"
    assert "largest of 3" in values["empirical lower bound on epsilon"].more
    assert values["gap"].value == "2.50"
    assert values["the audit's own ceiling"].value == "4.20"
    assert any("must not be compared" in note for note in said.notes)


def test_a_bound_at_a_smaller_delta_contradicts_nothing():
    """A guarantee at delta 1e-5 may break with that chance, so one at 0 says nothing against it."""
    result = _result(2.0, [(2.1, RECORD)])
    result["channels"][0]["eps_delta"] = 0.0
    said = claims_box(result)
    assert said.tone is Tone.MILD
    assert "contradicts" not in said.head
    assert said.tiles[2].more == "no lower bound for the same unit and delta"
    result["channels"][0]["eps_delta"] = 1e-4
    assert "contradicts" in claims_box(result).head


def test_the_ceiling_is_of_what_counts():
    result = _result(None, [(0.0, RECORD), (0.0, RECORD)])
    result["channels"][1] |= {"decides": False, "eps_ceiling": 9.0}
    assert claims_box(result).tiles[3].value == "4.20"


def test_bounds_are_rounded_to_the_side_on_which_they_hold():
    assert (at_least(1.999), at_least(2.0), at_most(3.991), at_most(4.0)) == (
        "1.99",
        "2.00",
        "4.00",
        "4.00",
    )
    assert at_least(None) == at_most(None)


def test_the_frontier_is_that_of_epsilon_and_delta():
    fpr = np.array([0.0, 0.1, 0.5, 1.0])
    np.testing.assert_allclose(frontier(fpr, epsilon=0, delta=0), fpr)
    np.testing.assert_allclose(
        frontier(fpr, epsilon=math.log(3), delta=0), [0, 0.3, 1 - 0.5 / 3, 1]
    )
    np.testing.assert_allclose(frontier(fpr, epsilon=0, delta=0.2), [0.2, 0.3, 0.7, 1])
    randomized_response = frontier(np.array([0.25]), epsilon=math.log(3), delta=0)
    assert randomized_response[0] == pytest.approx(0.75)
    assert frontier(np.array([0.5]), epsilon=1e6, delta=0)[0] == 1
