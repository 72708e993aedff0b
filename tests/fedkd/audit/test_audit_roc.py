"""Curves and their intervals where members are few, scores tied or separation perfect."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedkd.audit.roc import auc, roc, tpr_at_fpr


def test_guessing_is_a_half_and_order_does_not_matter():
    scores = np.random.default_rng(0).normal(size=400)
    found = auc(scores[:200], scores[200:])
    assert found.interval.low < 0.5 < found.interval.high
    assert auc(np.zeros(5), np.zeros(7)).value == 0.5
    assert found.value == pytest.approx(1 - auc(scores[200:], scores[:200]).value)
    assert auc(scores[:200][::-1], scores[200:]).value == found.value


@pytest.mark.parametrize("n", [1, 20, 400])
def test_perfect_separation_keeps_an_interval_with_width(n):
    found = auc(np.ones(n), np.zeros(n + 3))
    assert found.value == 1
    assert found.interval.high == 1
    assert found.interval.low == pytest.approx(0.025 ** (1 / n))
    assert auc(np.zeros(n), np.ones(n + 3)).interval.low == 0


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    truth, covered = 0.5 * (1 + math.erf(0.5 / math.sqrt(2) / math.sqrt(2))), 0
    for _ in range(500):
        found = auc(rng.normal(0.5, 1, 80), rng.normal(0, 1, 120))
        covered += found.interval.low <= truth <= found.interval.high
    assert 0.92 <= covered / 500 <= 0.98


@pytest.mark.parametrize(("n", "fpr", "needed"), [(99, 0.01, "100"), (999, 0.001, "1000")])
def test_too_few_non_members_have_no_tpr(n, fpr, needed):
    found = tpr_at_fpr(np.ones(50), np.zeros(n), fpr=fpr)
    assert found.value is None
    assert found.interval is None
    assert f"{n} non-members" in found.reason
    assert needed in found.reason
    assert tpr_at_fpr(np.ones(50), np.zeros(n + 1), fpr=fpr).value == 1


def test_tpr_by_hand():
    nonmembers = np.arange(200.0)  # two false alarms are allowed: 198 and 199
    found = tpr_at_fpr([197.0, 197.5, 250.0, 1.0], nonmembers, fpr=0.01)
    assert found.threshold == 197
    assert found.value == 0.5
    assert found.interval.low == pytest.approx(0.0676, abs=1e-4)
    assert found.interval.high == pytest.approx(0.9324, abs=1e-4)
    assert 0.01 < found.fpr_high < 0.04


def test_tied_non_members_are_never_let_through():
    found = tpr_at_fpr(np.full(10, 5.0), np.full(1000, 5.0), fpr=0.01)
    assert found.value == 0


def test_a_curve_begins_at_nothing_even_for_infinite_scores():
    found = roc([np.inf, 1.0, 0.0], [np.inf, -np.inf])
    assert found.tpr.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert found.fpr.tolist() == [0, 0.5, 0.5, 0.5, 1]
    assert found.thresholds[0] == np.inf


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="without NaN"):
        auc([math.nan], [1.0])
