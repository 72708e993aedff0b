"""The certified epsilons: directions, corrections, ceilings, ties and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fedkd.audit.bounds import (
    Assumption,
    Relation,
    Rule,
    membership_bound,
    membership_bound_of_several,
    membership_bound_split,
    membership_ceiling,
)
from fedkd.audit.exposure import Exposures
from fedkd.audit.findings import Result, extraction, membership
from fedkd.audit.gaussian import one_run_bound_gaussian, threshold_bound_gaussian
from fedkd.audit.guesses import (
    Guesses,
    guess_membership,
    guess_membership_split,
    guess_secrets,
)
from fedkd.audit.kary import kary_bound, kary_epsilon, success_rate
from fedkd.audit.one_run import one_run_bound
from fedkd.audit.power import (
    detectable,
    kary_power,
    least_found,
    membership_power,
    one_run_power,
)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _ranks(counts: dict[int, int], n_candidates: int) -> Exposures:
    ranks = np.repeat(list(counts), list(counts.values()))
    return Exposures(ranks=ranks, n_candidates=n_candidates)


APART = np.linspace(5, 6, 400), np.linspace(-6, -5, 400)


def test_all_rules_reach_their_ceiling_on_perfect_separation():
    fixed = membership_bound(*APART, threshold=0.0)
    several = membership_bound_of_several(*APART, thresholds=[-9.0, 0.0, 9.0])
    split = membership_bound_split(*APART, rng=_rng())
    for bound in (fixed, several):
        assert bound.epsilon == bound.ceiling
        assert bound.choice == 0
    assert split.ceiling == membership_ceiling(200, 200)
    assert 0.9 * split.ceiling < split.epsilon <= split.ceiling
    assert fixed.epsilon > several.epsilon > split.epsilon
    assert [fixed.n_canaries, several.n_canaries, split.n_canaries] == [800, 800, 400]
    assert [fixed.rule, several.rule, split.rule] == [Rule.FIXED, Rule.BONFERRONI, Rule.SPLIT]


def test_membership_is_about_adding_or_removing():
    bound = membership_bound(*APART, threshold=0.0)
    assert bound.relation is Relation.ADD_OR_REMOVE
    assert bound.add_remove_epsilon == bound.epsilon
    assert bound.assumptions == (Assumption.INDEPENDENT,)


def test_an_inverted_or_blind_attack_certifies_nothing():
    assert membership_bound(APART[1], APART[0], threshold=0.0).epsilon == 0
    assert membership_bound(*APART, threshold=99.0).epsilon == 0
    assert membership_bound_split(np.zeros(50), np.zeros(50), rng=_rng()).epsilon == 0
    assert threshold_bound_gaussian(APART[1], APART[0], threshold=0.0).epsilon == 0


def test_delta_costs_and_confidence_costs():
    rng = _rng(1)
    members, nonmembers = rng.normal(2, 1, 500), rng.normal(0, 1, 500)
    base = membership_bound(members, nonmembers, threshold=2.0).epsilon
    with_delta = membership_bound(members, nonmembers, threshold=2.0, delta=0.1)
    surer = membership_bound(members, nonmembers, threshold=2.0, alpha=0.001)
    assert 0 < with_delta.epsilon < base
    assert 0 < surer.epsilon < base
    assert surer.confidence == 0.999


def test_the_split_differs_by_its_rng_alone():
    rng = _rng(1)
    scores = rng.normal(1, 1, 300), rng.normal(0, 1, 300)
    found = membership_bound_split(*scores, rng=_rng(2))
    assert found == membership_bound_split(*scores, rng=_rng(2))
    assert found != membership_bound_split(*scores, rng=_rng(3))


@pytest.mark.parametrize("scores", [[], [math.nan, 1.0], [[1.0]]])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(ValueError, match="without NaN"):
        membership_bound(scores, [1.0], threshold=0.0)


def test_no_threshold_is_refused():
    with pytest.raises(ValueError, match="split rule"):
        membership_bound_of_several([1.0], [0.0], thresholds=[])


# k-ary canaries.


def test_the_k_ary_bound_counts_all_within_the_top_and_halves_for_adding():
    found = kary_bound(_ranks({1: 20, 2: 20, 3: 10, 90: 50}, 100), tops=(3,))
    assert found.epsilon == float(kary_epsilon(50, 100, n_candidates=100, top=3))
    assert found.relation is Relation.REPLACE
    assert found.add_remove_epsilon == found.epsilon / 2
    assert found.ceiling == float(kary_epsilon(100, 100, n_candidates=100, top=3))


def test_several_tops_pay_for_their_number():
    exposures = _ranks({1: 5, 10: 60, 90: 35}, 100)
    alone = kary_bound(exposures, tops=(10,))
    several = kary_bound(exposures, tops=(1, 10))
    assert several.choice == 10
    assert several.rule is Rule.BONFERRONI
    assert several.epsilon == kary_bound(exposures, tops=(10,), alpha=0.025).epsilon
    assert kary_bound(exposures).epsilon < several.epsilon < alone.epsilon


def test_delta_is_taken_from_alpha_until_nothing_is_left():
    exposures = _ranks({1: 50}, 10)
    pure, approximate = kary_bound(exposures), kary_bound(exposures, delta=1e-4)
    assert approximate.epsilon == float(kary_epsilon(50, 50, n_candidates=10, alpha=0.045))
    assert approximate.epsilon < pure.epsilon
    assert kary_bound(exposures, delta=1e-3).epsilon == 0


@pytest.mark.parametrize("top", [0, 10, 11])
def test_a_top_that_means_nothing_is_refused(top):
    with pytest.raises(ValueError, match=f"top {top} of 10"):
        kary_bound(_ranks({1: 50}, 10), tops=(top,))


def test_no_canaries_and_no_tops_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        kary_bound(_ranks({}, 10))
    with pytest.raises(ValueError, match="at least one"):
        kary_bound(_ranks({1: 3}, 10), tops=())


# One run.


def test_guesses_by_hand():
    scores = [9.0, 8.0, 7.0, 3.0, 2.0, 1.0]
    members = np.array([True, False, True, True, False, False])
    found = guess_membership(scores, members, n_positive=3, n_negative=2)
    assert (found.n_canaries, found.made, found.correct) == (6, 5, 4)


def test_ties_count_against_the_auditor_in_any_order():
    members = np.repeat([True, False], 50)
    for bits in (members, ~members, _rng().permutation(members)):
        found = guess_membership(np.zeros(100), bits, n_positive=50, n_negative=50)
        assert found.correct == 0
        assert guess_membership_split(np.zeros(100), bits, rng=_rng()).correct <= 1


def test_ties_among_surest_secrets_count_against_the_auditor():
    exposures = _ranks({1: 30, 5: 70}, 10)
    assert guess_secrets(exposures, np.zeros(100), n_guesses=80).correct == 10
    sure = guess_secrets(exposures, np.arange(100)[::-1], n_guesses=40)
    assert (sure.correct, sure.alphabet, sure.relation) == (30, 10, Relation.REPLACE)


def test_the_split_finds_the_share_that_is_certain():
    rng = _rng(3)
    members = rng.random(2000) < 0.5
    scores = rng.normal(size=2000)
    scores[members & (rng.random(2000) < 0.2)] = 9.0  # a tenth of all: members, and surely so
    found = guess_membership_split(scores, members, rng=rng)
    assert found.rule is Rule.SPLIT
    assert found.n_canaries == 1000
    assert 50 <= found.made <= 120
    bound = one_run_bound(found, delta=1e-5)
    assert bound.epsilon > 1.5
    all_of_it = guess_membership(scores, members, n_positive=1000, n_negative=1000)
    assert one_run_bound(all_of_it, delta=1e-5).epsilon < 0.6


@pytest.mark.parametrize("bits", [[1, 0], [True], [1.0, 0.0]])
def test_members_must_be_bools(bits):
    with pytest.raises(ValueError, match="one bool for each score"):
        guess_membership([1.0, 2.0], bits, n_positive=1, n_negative=1)


def test_impossible_guesses_are_refused():
    bits = np.array([True, False])
    with pytest.raises(ValueError, match="2 positive and 1 negative"):
        guess_membership([1.0, 2.0], bits, n_positive=2, n_negative=1)
    with pytest.raises(ValueError, match="give 0 <= correct"):
        Guesses(n_canaries=10, made=5, correct=6)


def test_steinkes_bound_is_about_bits():
    with pytest.raises(ValueError, match="kary_bound"):
        one_run_bound(Guesses(n_canaries=5, made=5, correct=5, alphabet=10))


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("bound", [one_run_bound, one_run_bound_gaussian])
def test_more_right_guesses_never_certify_less(bound, delta):
    if bound is one_run_bound_gaussian and not delta:
        with pytest.raises(ValueError, match="within"):
            bound(Guesses(n_canaries=60, made=40, correct=20), delta=delta)
        return
    found = [
        bound(Guesses(n_canaries=60, made=40, correct=correct), delta=delta)
        for correct in range(0, 41, 4)
    ]
    assert all(b.epsilon >= a.epsilon for a, b in itertools.pairwise(found))
    assert found[0].epsilon == 0
    assert found[-1].epsilon == found[-1].ceiling > 0
    assert {b.ceiling for b in found} == {found[-1].ceiling}


def test_the_one_run_bound_keeps_its_p_value_and_is_tight():
    from fedkd.audit.one_run import one_run_p

    guesses = Guesses(n_canaries=1000, made=200, correct=180)
    found = one_run_bound(guesses, delta=1e-5).epsilon
    assert float(one_run_p(guesses, found, delta=1e-5)) < 0.05
    assert float(one_run_p(guesses, found + 1e-3, delta=1e-5)) > 0.05


def test_gaussian_bounds_say_that_they_are_model_based():
    found = one_run_bound_gaussian(Guesses(n_canaries=100, made=100, correct=90))
    assert found.assumptions == (Assumption.RANDOM_BITS, Assumption.GAUSSIAN)
    assert found.mu is not None
    assert found.mu > 0
    assert found.epsilon > one_run_bound(Guesses(n_canaries=100, made=100, correct=90)).epsilon


# Power.


def test_power_rises_with_epsilon_and_stays_below_alpha_without_leakage():
    for power in (
        lambda e: membership_power(200, 200, epsilon=e),
        lambda e: kary_power(100, 10, epsilon=e),
        lambda e: one_run_power(400, 400, epsilon=e, delta=1e-5),
    ):
        chances = [power(e) for e in (0.0, 0.5, 1.0, 2.0, 4.0)]
        assert chances[0] <= 0.05
        assert chances == sorted(chances)
        assert chances[-1] > 0.99
        assert power(detectable(power)) >= 0.8 > power(detectable(power) - 0.02)


def test_power_counts_what_the_bounds_do():
    rng = _rng(7)
    hits, trials, epsilon = 0, 2000, 1.0
    rate = 1 / (1 + math.exp(-epsilon))
    for _ in range(trials):
        members, nonmembers = rng.random(40) < rate, rng.random(60) > rate
        hits += membership_bound(members, nonmembers, threshold=0.5).epsilon > 0.1
    found = membership_power(40, 60, epsilon=epsilon, target=0.1)
    assert hits / trials == pytest.approx(found, abs=4 * math.sqrt(0.25 / trials))
    assert 0.05 < found < 0.95


def test_a_perfect_audit_cannot_exceed_its_ceiling():
    assert membership_power(100, 100, epsilon=19, target=membership_ceiling(100, 100)) == 0
    assert math.isinf(detectable(lambda e: membership_power(3, 3, epsilon=e)))


def _share_above_zero(audits: list[Result]) -> float:
    bounds = [one.bound or (one.extraction or one.membership).bound for one in audits]
    return float(np.mean([bound.epsilon > 0 for bound in bounds]))


def _responses(epsilon: float, rng: np.random.Generator) -> dict[str, Result]:
    """Return audits of randomized response: membership, a secret of ten values, a fair coin."""
    rate = 1 / (1 + math.exp(-epsilon))
    scores = (rng.random(60) < rate).astype(float), (rng.random(60) > rate).astype(float)
    first = rng.random(40) < success_rate(epsilon, 10)
    ranks = Exposures(ranks=np.where(first, 1, rng.integers(2, 11, 40)), n_candidates=10)
    right = int((rng.random(100) < rate).sum())
    guesses = Guesses(n_canaries=100, made=100, correct=right)
    return {
        "membership": Result(at_risk="", membership=membership(*scores, rng=rng, delta=1e-5)),
        "secrets": Result(at_risk="", extraction=extraction(ranks, np.ones(40), rng=rng)),
        "guesses": Result(at_risk="", bound=one_run_bound(guesses, delta=1e-5)),
    }


@pytest.mark.parametrize("kind", ["membership", "secrets", "guesses"])
def test_the_least_epsilon_that_is_found_is_found_four_times_in_five(kind):
    rng, repeats = _rng(8), 400
    least = least_found(_responses(0.0, rng)[kind])
    audits = [_responses(least, rng)[kind] for _ in range(repeats)]
    assert 0.8 - 0.07 < _share_above_zero(audits) < 0.8 + 0.1  # 3.5 standard errors, and steps


def test_where_nothing_is_bounded_there_is_no_power():
    assert least_found(Result(at_risk="")) is None
