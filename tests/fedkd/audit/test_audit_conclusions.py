"""What is concluded from an audit's rows: the verdict, conditions for pipelines, differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedkd.audit.attacks.base import attacks
from fedkd.audit.difference import changes, worsened
from fedkd.audit.exposure import Exposures
from fedkd.audit.findings import Figure, Result, extraction, membership
from fedkd.audit.gates import Gate, gate
from fedkd.audit.guesses import Guesses
from fedkd.audit.one_run import one_run_bound
from fedkd.audit.plain import channel_row
from fedkd.audit.suspects import unit_of
from fedkd.audit.verdict import LEAK, NO_LEAK, UNKNOWN, holm, leak_tests, verdict
from fedkd.canaries.base import Canary
from fedkd.errors import ConfigError

UTILITY = dict.fromkeys(
    ("accuracy_mean", "server_accuracy", "bits_per_character_mean", "server_bits_per_character")
)


def row(result, name="loss_threshold_student", *, set_aside=""):
    made = channel_row(attacks.get(name)(), result, status="ran", reason="", set_aside=set_aside)
    return {**made, "seconds": 0.0}


def suspects(gap, *, n=400, seed=0, set_aside=""):
    rng = np.random.default_rng(seed)
    scores = rng.normal(gap, 1, n), rng.normal(0, 1, n)
    result = Result(at_risk="membership", membership=membership(*scores, rng=rng))
    return row(result, set_aside=set_aside)


def canaries(top, *, n=40, k=100, seed=0):
    """Return a row in which a share ``top`` of the canaries is ranked first."""
    rng = np.random.default_rng(seed)
    ranks = np.where(rng.random(n) < top, 1, rng.integers(1, k + 1, size=n))
    found = extraction(Exposures(ranks=ranks, n_candidates=k), np.full(n, 16), rng=rng)
    return row(Result(at_risk="canary secrets", extraction=found), "canary_student")


def report(*rows, reduction=None):
    reason = None if reduction is not None else "the plain run does not leak"
    return {
        "channels": list(rows),
        "utility": UTILITY,
        "exposure_reduction": reduction,
        "exposure_reduction_reason": reason,
    }


def test_a_bound_says_what_it_rests_on():
    assert "scores are independent" in suspects(0)["eps_rule"]
    assert "drawn uniformly" in canaries(0)["eps_rule"]


def test_a_secret_of_several_holders_is_not_one_holders():
    one = Canary(number=0, seed=0, secret=3, insertions=4, holders=(1,))
    two = replace(one, holders=(1, 2))
    assert "one holder's" in unit_of([one])
    assert "all of its 2 holders" in unit_of([two])
    ranks = Exposures(ranks=np.ones(5, dtype=np.int64), n_candidates=10)
    found = extraction(ranks, np.full(5, 4), rng=np.random.default_rng(0))
    result = Result(at_risk="canary secrets", extraction=found, bound_unit=unit_of([two]))
    assert row(result, "canary_student")["eps_unit"] == unit_of([two])


class TestVerdict:
    def test_a_leak_is_named_with_its_channel_and_figure(self):
        said = verdict([suspects(0), canaries(0.5)])
        assert said["grade"] == LEAK
        assert "'student'" in said["sentence"]
        assert "canary secrets inserted 16 times, exposure" in said["sentence"]
        assert "AUC" not in said["sentence"]

    def test_nothing_found_is_said_with_what_could_have_been_found(self):
        said = verdict([suspects(0), canaries(0)])
        assert said["grade"] == NO_LEAK
        assert said["sentence"].startswith("No attack did better than chance")
        assert any("certifies epsilon" in line for line in said["limits"])

    def test_it_cannot_tell_when_nothing_ran(self):
        nothing = row(None) | {"status": "not seen", "reason": "no student"}
        said = verdict([nothing])
        assert said["grade"] == UNKNOWN
        assert said["limits"] == ["loss_threshold_student: not seen: no student"]

    def test_it_cannot_tell_when_even_perfection_certifies_nothing(self):
        few = suspects(0, n=4)
        assert few["eps_ceiling"] < 0.5
        assert verdict([few])["grade"] == UNKNOWN

    def test_what_is_set_aside_decides_nothing_and_the_reason_is_printed(self):
        aside = suspects(3, set_aside="style passes for memory")
        assert (aside["decides"], aside["decides_reason"]) == (False, "style passes for memory")
        reason = "loss_threshold_student: does not decide the verdict: style passes for memory"
        said = verdict([aside, canaries(0)])
        assert said["grade"] == NO_LEAK
        assert "1 tests" in said["sentence"]
        assert said["sentence"].startswith("No attack that decides did better than chance")
        assert reason in said["limits"]
        assert not any(line.startswith("loss_threshold_student: a per") for line in said["limits"])
        alone = verdict([aside])
        assert alone["grade"] == UNKNOWN
        assert "No attack that decides ran" in alone["sentence"]
        assert alone["limits"] == [reason]

    def test_an_auc_of_few_scores_is_judged_by_its_exact_law(self):
        scores = np.arange(10.0, 14), np.arange(4.0)
        found = membership(*scores, rng=np.random.default_rng(0))
        (test,) = leak_tests([row(Result(at_risk="membership", membership=found))])
        assert test.p == pytest.approx(1 / 70)  # of all ways to pick four of eight

    def test_leak_free_audits_of_few_records_raise_no_more(self):
        repeats = 400
        alarms = sum(
            verdict([suspects(0, n=12, seed=s), suspects(0, n=12, seed=10_000 + s)])["grade"]
            == LEAK
            for s in range(repeats)
        )
        assert alarms <= 34  # 5 % of 400 is 20; 99.9 % of such experiments see 34 at most

    def test_leak_free_audits_raise_false_alarms_in_at_most_five_percent(self):
        rng, alarms = np.random.default_rng(0), 0
        for seed in range(200):
            rows = [suspects(0, n=100, seed=1000 + 7 * seed), canaries(0, seed=seed)]
            p = float(rng.random())
            figure = Figure(name="guess", value=0.5, chance=0.5, p=p)
            rows.append(row(Result(at_risk="labels", figures=(figure,)), "canary_uploads"))
            alarms += verdict(rows)["grade"] == LEAK
        assert alarms <= 17  # 5 % of 200 is 10; 97.5 % of such experiments see 16 at most

    def test_a_bound_above_zero_is_better_than_chance(self):
        guesses = Guesses(n_canaries=40, made=40, correct=30)
        said = verdict([row(Result(at_risk="uploads", bound=one_run_bound(guesses)))])
        assert said["grade"] == LEAK

    def test_holm_is_bonferroni_for_the_smallest_and_never_falls(self):
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert holm([]) == []
        assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])

    def test_a_leak_of_few_insertions_is_a_leak_though_many_do_not_leak(self):
        rng = np.random.default_rng(0)
        ranks = np.append(np.ones(10, np.int64), rng.integers(1, 1002, 10))
        found = extraction(
            Exposures(ranks=ranks, n_candidates=1001), np.repeat([4, 16], 10), rng=rng
        )
        quiet = row(Result(at_risk="canary secrets", extraction=found), "canary_student")
        assert quiet["exposure_p"] > 0.05, "that of the most insertions"
        said = verdict([quiet])
        assert said["grade"] == LEAK
        assert "over 2 tests" in said["sentence"]
        assert "inserted 4 times, exposure 9.97 bits" in said["sentence"]

    def test_each_measurement_is_tested_once(self):
        assert [test.attack for test in leak_tests([suspects(1), canaries(1)])] == [
            "loss_threshold_student",
            "canary_student",
        ]


class TestConditions:
    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("eps_lb>2", Gate(name="eps_lb", sign=">", limit=2.0)),
            (" auc >= 0.6 ", Gate(name="auc", sign=">=", limit=0.6)),
            ("exposure_reduction<0.8", Gate(name="exposure_reduction", sign="<", limit=0.8)),
            ("exposure_p<=1e-3", Gate(name="exposure_p", sign="<=", limit=1e-3)),
        ],
    )
    def test_it_is_read(self, text, wanted):
        assert gate(text) == wanted

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("eps_lb", "no condition"),
            ("eps_lb=2", "no condition"),
            ("eps_lb>two", "no condition"),
            ("eps_lb>1e", "no number"),
            ("eps_lp>2", "did you mean 'eps_lb'"),
            ("", "no condition"),
        ],
    )
    def test_another_form_is_refused(self, text, says):
        with pytest.raises(ConfigError, match=says):
            gate(text)

    def test_any_channel_counts(self):
        found = gate("auc>0.6").failures(report(suspects(0), suspects(2)))
        assert len(found) == 1
        assert "loss_threshold_student on student" in found[0]
        assert gate("auc>0.6").failures(report(suspects(0))) == []

    def test_what_does_not_count_in_the_verdict_does_not_count_here(self):
        aside = suspects(2, set_aside="style passes for memory")
        assert gate("auc>0.6").failures(report(suspects(0), aside)) == []
        assert gate("auc_p<0.001").failures(report(suspects(0), aside)) == []
        assert gate("auc_p<0.001").failures(report(suspects(2), aside))

    def test_the_reduction_is_compared(self):
        assert gate("exposure_reduction<0.8").failures(report(reduction=0.9)) == []
        assert gate("exposure_reduction<0.8").failures(report(reduction=0.7))

    def test_what_was_not_measured_never_passes(self):
        (line,) = gate("exposure_reduction<0.8").failures(report())
        assert "not measured (the plain run does not leak)" in line
        assert gate("auc>0.6").failures(report(canaries(0)))
        assert gate("accuracy_mean<0.5").failures(report())


class TestDifference:
    def test_a_worse_audit_is_found_and_its_mirror_is_not(self):
        bad, good = [suspects(1.0), canaries(0.9)], [suspects(0), canaries(0)]
        found = changes(bad, good)
        assert {(r["attack"], r["figure"]) for r in worsened(found)} >= {
            ("loss_threshold_student", "auc"),
            ("canary_student", "exposure_mean"),
        }
        assert worsened(changes(good, bad)) == []
        by_figure = {r["figure"]: r for r in found}
        assert by_figure["eps_lb"]["p"] is None
        assert by_figure["auc"]["change"] == pytest.approx(bad[0]["auc"] - good[0]["auc"])

    def test_a_tpr_at_another_threshold_is_no_change_for_the_worse(self):
        def few_outs(seed):
            rng = np.random.default_rng(seed)
            found = membership(rng.normal(size=1000), rng.normal(size=100), rng=rng)
            return row(Result(at_risk="membership", membership=found))

        pairs = [([few_outs(s)], [few_outs(1000 + s)]) for s in range(40)]
        assert sum(bool(worsened(changes(*pair))) for pair in pairs) <= 4

    def test_equal_audits_differ_in_nothing(self):
        rows = [suspects(0.5), canaries(0.5)]
        assert {r["change"] for r in changes(rows, rows)} == {0.0}
        assert worsened(changes(rows, rows)) == []

    def test_chance_alone_is_no_change_for_the_worse(self):
        flagged = sum(
            bool(worsened(changes([suspects(0.3, seed=s)], [suspects(0.3, seed=1000 + s)])))
            for s in range(100)
        )
        assert flagged <= 5

    def test_bits_among_other_candidates_are_not_compared(self):
        found = changes([canaries(0.9, k=100)], [canaries(0.9, k=10)])
        assert "exposure_mean" not in {row["figure"] for row in found}

    def test_what_only_one_audit_measured_is_left_out(self):
        assert changes([suspects(1)], [canaries(1)]) == []
