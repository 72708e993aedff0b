"""The audit's statistics against tables, closed forms and other libraries.

The tables were computed beforehand at confidence 95 %; one digit after the point is printed.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from fedkd.audit.bounds import classical_epsilon, membership_bound, membership_ceiling
from fedkd.audit.exposure import (
    FLOOR,
    Exposures,
    chi_square_p,
    exact_exposure,
    floor_of,
    interpolated_exposure,
    rank_p,
)
from fedkd.audit.gaussian import (
    gaussian_delta,
    gaussian_epsilon,
    largest_rejected_mu,
    rejects,
    threshold_bound_gaussian,
)
from fedkd.audit.guesses import Guesses
from fedkd.audit.intervals import lower_limit, share_interval, upper_limit
from fedkd.audit.kary import kary_epsilon, success_rate
from fedkd.audit.one_run import one_run_bound, one_run_p
from fedkd.audit.roc import EXACT_PAIRS, auc, chance_p, roc, tpr_at_fpr

PRINTED = 0.051
"""Half of the printed digit."""


def _right(made: int, correct: int, *, of: int | None = None, alphabet: int = 2) -> Guesses:
    return Guesses(n_canaries=of or made, made=made, correct=correct, alphabet=alphabet)


# Exposure.


@pytest.mark.parametrize("hits", [0, 1, 7, 49, 50])
def test_clopper_pearson_is_scipys(hits):
    ours = share_interval(hits, 50)
    theirs = stats.binomtest(hits, 50).proportion_ci(0.95, method="exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_exposure_by_hand():
    losses = [[3.0, 1.0, 2.0, 5.0], [0.0, 0.0, 0.0, 9.0], [math.inf, 1.0, 2.0, 3.0]]
    found = exact_exposure(losses, [1, 0, 0])
    assert found.ranks.tolist() == [1, 3, 4]
    assert found.bits == pytest.approx([2, 2 - math.log2(3), 0])


def test_interpolated_exposure_by_hand():
    found = interpolated_exposure([0.5, 0.5, 9.0], [[1, 2, 3], [0, 0.5, 3], [1, 2, 3]])
    assert found.bits == pytest.approx([2, 2 - math.log2(3), 0])
    assert found.cap == 2


def test_floors():
    assert pytest.approx(1.4427, abs=1e-4) == FLOOR
    assert floor_of(1001) == pytest.approx(1.436, abs=5e-4)
    assert floor_of(10) == pytest.approx(np.mean(np.log2(10 / np.arange(1, 11))), abs=1e-12)
    assert floor_of(2) == pytest.approx(0.5)


def test_chi_square_is_scipys():
    found = Exposures(ranks=np.array([1, 5, 60, 700, 3]), n_candidates=1001)
    statistic = -2 * np.log(found.ranks / 1001).sum()
    assert chi_square_p(found) == pytest.approx(stats.chi2.sf(statistic, 10), rel=1e-12)


@pytest.mark.parametrize(("n", "k"), [(1, 10), (2, 7), (3, 12), (4, 5)])
def test_the_law_of_few_ranks_is_the_enumerated_one(n, k):
    every = np.stack(np.meshgrid(*[np.arange(1, k + 1)] * n), axis=-1).reshape(-1, n)
    products = every.prod(axis=1)
    for ranks in every[:: max(1, len(every) // 40)]:
        exact = (products <= ranks.prod()).mean()
        found = rank_p(Exposures(ranks=ranks, n_candidates=k))
        assert found == pytest.approx(exact, abs=1e-9)
    best = Exposures(ranks=np.ones(n, np.int64), n_candidates=k)
    assert rank_p(best) == pytest.approx(float(k) ** -n, rel=1e-6)


def test_the_law_of_many_ranks_is_the_simulated_one():
    ranks = np.random.default_rng(0).integers(1, 11, (200_000, 60))
    sums = np.log2(10 / ranks).sum(axis=1)
    for quantile in (0.5, 0.9, 0.99):
        found = ranks[np.argsort(sums)[int(quantile * len(sums))]]
        p = rank_p(Exposures(ranks=found, n_candidates=10))
        assert 1 - quantile - 0.004 < p < 1 - quantile + 0.025


# k-ary canaries.

SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)
KARY = {
    (20, 10): (4.0, 2.4, 1.4, 0.0, 0.0),
    (20, 100): (6.4, 4.8, 3.8, 2.4, 0.6),
    (100, 10): (5.7, 2.9, 1.9, 0.7, 0.0),
    (100, 100): (8.1, 5.3, 4.3, 3.1, 1.8),
    (100, 1000): (10.4, 7.6, 6.6, 5.4, 4.1),
    (500, 100): (9.7, 5.5, 4.4, 3.3, 2.1),
}
"""Certified epsilon by canaries, candidates and share ranked first; printed by way of two digits,
so that 4.246 stands as 4.25 and then 4.3."""


@pytest.mark.parametrize(("n", "k"), KARY)
def test_the_k_ary_table(n, k):
    found = kary_epsilon(np.array(SHARES) * n, n, n_candidates=k)
    assert found.round(2) == pytest.approx(KARY[n, k], abs=PRINTED)


def test_a_quarter_first_of_a_hundred_certifies_3_08():
    assert float(kary_epsilon(25, 100, n_candidates=100)) == pytest.approx(3.08, abs=0.005)


@pytest.mark.parametrize(("k", "top", "epsilon"), [(2, 1, 0.7), (10, 3, 2.0), (1000, 50, 5.0)])
def test_the_k_ary_bound_inverts_its_success_rate(k, top, epsilon):
    q = success_rate(epsilon, k, top=top)
    assert math.log(q * (k - top) / (top * (1 - q))) == pytest.approx(epsilon)
    n = 10**7
    found = float(kary_epsilon(round(q * n), n, n_candidates=k, top=top))
    assert found < epsilon
    assert found == pytest.approx(epsilon, abs=0.02)


def test_two_candidates_are_steinkes_guesses():
    ours = float(kary_epsilon(70, 100, n_candidates=2))
    assert ours == pytest.approx(one_run_bound(_right(100, 70)).epsilon, abs=1e-9)


# Membership.


@pytest.mark.parametrize(
    ("n", "ceiling"), [(50, 2.6), (100, 3.3), (500, 4.9), (1000, 5.6), (5000, 7.2)]
)
def test_the_ceilings_of_perfect_separation(n, ceiling):
    assert membership_ceiling(n, n) == pytest.approx(ceiling, abs=PRINTED)
    bound = membership_bound(np.ones(n), np.zeros(n), threshold=0.5)
    assert bound.epsilon == bound.ceiling == membership_ceiling(n, n)


def test_the_classical_formula_by_hand():
    members, nonmembers = np.repeat([1.0, 0.0], [60, 40]), np.repeat([1.0, 0.0], [10, 190])
    tpr = stats.beta.ppf(0.025, 60, 41)
    fpr = stats.beta.ppf(0.975, 11, 190)
    found = membership_bound(members, nonmembers, threshold=0.5, delta=0.01).epsilon
    assert found == pytest.approx(math.log((tpr - 0.01) / fpr))
    swapped = membership_bound(-nonmembers, -members, threshold=-0.5, delta=0.01).epsilon
    tnr, fnr = 1 - stats.beta.ppf(0.975, 41, 60), 1 - stats.beta.ppf(0.025, 190, 11)
    assert swapped == pytest.approx(math.log((tnr - 0.01) / fnr))


def test_both_directions_count():
    assert float(classical_epsilon(0.9, 0.5)) == pytest.approx(math.log(5))
    assert float(classical_epsilon(0.5, 0.1)) == pytest.approx(math.log(5))
    assert float(classical_epsilon(0.1, 0.5)) == 0


# One run.

ALL, SUREST, MOST = (1.0, 1.0), (0.2, 0.9), (1.0, 0.75)
ONE_RUN = {ALL: (3.5, 5.8, 7.3), SUREST: (0.9, 1.8, 2.0), MOST: (0.7, 1.0, 1.0)}
"""By share guessed and share of it that is right: epsilon for 100, 1000 and 5000 canaries."""


@pytest.mark.parametrize(("guessed", "right"), ONE_RUN)
def test_the_one_run_table(guessed, right):
    for n, epsilon in zip((100, 1000, 5000), ONE_RUN[guessed, right], strict=True):
        made = round(guessed * n)
        found = one_run_bound(_right(made, round(right * made), of=n), delta=1e-5)
        assert found.epsilon == pytest.approx(epsilon, abs=PRINTED)


@pytest.mark.parametrize(("made", "correct"), [(10, 8), (20, 20), (15, 1), (5, 0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_the_one_run_p_value_is_its_definition(made, correct, epsilon):
    q = 1 / (1 + math.exp(-epsilon))
    law = [math.comb(made, j) * q**j * (1 - q) ** (made - j) for j in range(made + 1)]
    extra = [sum(law[correct - i : correct]) / i for i in range(1, correct + 1)]
    expected = sum(law[correct:]) + 2 * 40 * 1e-3 * max(extra, default=0)
    found = float(one_run_p(_right(made, correct, of=40), epsilon, delta=1e-3))
    assert found == pytest.approx(min(1, expected), rel=1e-9)


@pytest.mark.parametrize(("made", "k"), [(1, 2), (5, 2), (3, 10), (2, 100)])
def test_without_leakage_the_recursion_is_the_chance_of_guessing_all(made, k):
    guesses = _right(made, made, of=made + 7, alphabet=k)
    chance = float(k) ** -made
    assert not rejects(guesses, np.zeros(1), alpha=chance * 0.999)[0]
    assert rejects(guesses, np.zeros(1), alpha=chance * 1.001)[0]


@pytest.mark.parametrize(("alpha", "k"), [(0.9, 2), (0.6, 2), (0.5, 10)])
def test_the_recursion_for_one_guess_has_a_closed_form(alpha, k):
    mu = stats.norm.ppf(alpha) - stats.norm.ppf((1 - alpha) / (k - 1))
    found = largest_rejected_mu(_right(1, 1, alphabet=k), alpha=alpha)
    assert mu - 64 / 63**3 <= found <= mu


def test_the_recursion_for_two_guesses_by_hand():
    alpha, mu = 0.5, 0.4

    def back(share):
        return stats.norm.cdf(stats.norm.ppf(share) - mu)

    wrong = back(alpha)
    right = alpha + wrong
    assert right + max(wrong, back(right)) > 1
    assert rejects(_right(2, 2), np.array([mu]), alpha=alpha)[0]
    mu = 1.0
    wrong = back(alpha)
    assert alpha + wrong + max(wrong, back(alpha + wrong)) < 1
    assert not rejects(_right(2, 2), np.array([mu]), alpha=alpha)[0]


# Gaussian mechanisms.


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.67, 4.9, 20.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_the_epsilon_of_a_gaussian_is_dp_accountings(mu, delta):
    found = gaussian_epsilon(mu, delta=delta)
    assert found == pytest.approx(get_epsilon_gaussian(1 / mu, delta), abs=1e-5)
    assert gaussian_delta(found, mu) == pytest.approx(delta, rel=1e-5)


def test_the_gaussian_threshold_by_hand():
    members, nonmembers = np.repeat([1.0, 0.0], [60, 40]), np.repeat([1.0, 0.0], [10, 190])
    tpr, fpr = stats.beta.ppf(0.025, 60, 41), stats.beta.ppf(0.975, 11, 190)
    found = threshold_bound_gaussian(members, nonmembers, threshold=1.0, delta=1e-5)
    assert found.mu == pytest.approx(stats.norm.ppf(1 - fpr) - stats.norm.ppf(1 - tpr))
    assert found.epsilon == pytest.approx(get_epsilon_gaussian(1 / found.mu, 1e-5), abs=1e-5)


# Curves, against scikit-learn.


def _scores(seed: int, *, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.8, 1, 700).round(decimals), rng.normal(0, 1, 2000).round(decimals)


def _labeled(members, nonmembers):
    return np.repeat([1, 0], [len(members), len(nonmembers)]), np.append(members, nonmembers)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_auc_is_scikit_learns(decimals):
    members, nonmembers = _scores(1, decimals=decimals)
    expected = roc_auc_score(*_labeled(members, nonmembers))
    assert auc(members, nonmembers).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_the_curve_is_scikit_learns(decimals):
    members, nonmembers = _scores(2, decimals=decimals)
    fpr, tpr, _ = roc_curve(*_labeled(members, nonmembers), drop_intermediate=False)
    found = roc(members, nonmembers)
    assert found.fpr == pytest.approx(fpr)
    assert found.tpr == pytest.approx(tpr)
    assert ((found.tpr_low <= found.tpr) & (found.tpr <= found.tpr_high)).all()


@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("allowed", [0.01, 0.001, 0.1])
def test_tpr_at_fpr_is_the_highest_on_scikit_learns_curve(decimals, allowed):
    members, nonmembers = _scores(3, decimals=decimals)
    fpr, tpr, _ = roc_curve(*_labeled(members, nonmembers), drop_intermediate=False)
    found = tpr_at_fpr(members, nonmembers, fpr=allowed)
    assert found.value == pytest.approx(tpr[fpr <= allowed].max())


def test_delong_is_its_definition():
    members, nonmembers = (scores[:60] for scores in _scores(4, decimals=1))
    wins = np.sign(members[:, None] - nonmembers[None, :]) / 2 + 0.5
    variance = wins.mean(axis=1).var(ddof=1) / 60 + wins.mean(axis=0).var(ddof=1) / 60
    found = auc(members, nonmembers)
    reach = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert found.interval.low == pytest.approx(wins.mean() - reach)
    assert found.interval.high == pytest.approx(wins.mean() + reach)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 9), (9, 2), (12, 30), (50, 50), (60, 60)])
def test_the_p_of_an_auc_is_scipys(n, m):
    ins, outs = _scores(5, decimals=12)
    members, nonmembers = ins[:n], outs[:m]
    method = "exact" if n * m <= EXACT_PAIRS else "asymptotic"
    theirs = stats.mannwhitneyu(members, nonmembers, alternative="greater", method=method)
    assert chance_p(members, nonmembers) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert auc(members, nonmembers).p == chance_p(members, nonmembers)


@pytest.mark.parametrize(("n", "m"), [(1, 3), (3, 3), (4, 6), (6, 3)])
@pytest.mark.parametrize("levels", [2, 4])
def test_the_p_of_an_auc_with_ties_is_the_enumerated_one(n, m, levels):
    for seed in range(10):
        scores = np.random.default_rng(seed).integers(0, levels, n + m).astype(float)
        values = []
        for picked in combinations(range(n + m), n):
            rest = np.delete(scores, picked)
            values.append((np.sign(scores[list(picked)][:, None] - rest) / 2 + 0.5).mean())
        expected = (np.array(values) >= values[0] - 1e-12).mean()
        assert chance_p(scores[:n], scores[n:]) == pytest.approx(expected, rel=1e-12)


def test_limits_broadcast():
    low = lower_limit(np.arange(5)[:, None], np.array([4, 9])[None, :], alpha=0.05)
    assert low.shape == (5, 2)
    assert low[4, 0] == pytest.approx(0.05**0.25)
    assert float(upper_limit(0, 4, alpha=0.05)) == pytest.approx(1 - 0.05**0.25)
