"""Exposure, its intervals and its reduction: what is counted, refused and left undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedkd.audit.attacks.base import attacks
from fedkd.audit.exposure import (
    Exposures,
    by_insertions,
    chi_square_p,
    exact_exposure,
    floor_of,
    interpolated_exposure,
    rank_p,
)
from fedkd.audit.extrapolation import extrapolated_exposure
from fedkd.audit.findings import Result, extraction
from fedkd.audit.plain import channel_row
from fedkd.audit.reduction import exposure_reduction
from fedkd.audit.scoring import Lineup, Lineups
from fedkd.canaries.base import Canary, Probes


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _of(ranks, n_candidates: int = 1001) -> Exposures:
    return Exposures(ranks=np.asarray(ranks, np.int64), n_candidates=n_candidates)


def test_a_model_that_says_the_same_of_all_secrets_leaks_nothing():
    assert exact_exposure(np.zeros((5, 10)), np.arange(5)).bits.tolist() == [0] * 5
    assert interpolated_exposure(np.zeros(5), np.zeros((5, 99))).bits.tolist() == [0] * 5


def test_interpolation_is_the_exact_rank_among_canary_and_references():
    losses = _rng().normal(size=(50, 201)).round(1)
    exact = exact_exposure(losses, np.zeros(50, int))
    sampled = interpolated_exposure(losses[:, 0], losses[:, 1:])
    assert sampled.ranks.tolist() == exact.ranks.tolist()
    assert sampled.cap == exact.cap == math.log2(201)


@pytest.mark.parametrize(
    ("losses", "secrets"),
    [([[1.0, math.nan]], [0]), ([[1.0, 2.0]], [2]), ([[1.0, 2.0]], [-1]), ([1.0, 2.0], [0])],
)
def test_losses_that_cannot_be_ranked_are_refused(losses, secrets):
    with pytest.raises(ValueError, match=r"NaN|give"):
        exact_exposure(losses, secrets)


def test_one_draw_of_references_for_all_canaries_is_refused():
    with pytest.raises(ValueError, match="one draw of references for each canary"):
        interpolated_exposure([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="NaN"):
        interpolated_exposure([math.nan], [[1.0, 2.0]])


def test_levels_are_kept_apart_and_in_order():
    exposures = _of([1] * 10 + [500] * 10 + [1001] * 3)
    few, some, many = by_insertions(exposures, [64] * 10 + [4] * 10 + [1] * 3, rng=_rng())
    assert [few.insertions, some.insertions, many.insertions] == [1, 4, 64]
    assert [few.mean, some.mean, many.mean] == pytest.approx([0, math.log2(1001 / 500), few.cap])
    assert few.interval is None
    assert some.interval is not None
    alike = 0.025**0.1  # so many are at least, by Clopper and Pearson; the others may have 0 bits
    assert some.interval.low == pytest.approx(alike * some.mean)
    assert some.interval.high == pytest.approx(some.mean + (1 - alike) * (some.cap - some.mean))
    assert many.chi_square_p < 1e-12
    assert few.chi_square_p == few.rank_p == 1
    assert few.floor == floor_of(1001)


def test_the_interval_is_the_normal_one_for_many_canaries_and_repeats_with_its_rng():
    exposures = _of(_rng(1).integers(1, 1002, 2000))
    (level,) = by_insertions(exposures, np.ones(2000), rng=_rng(2))
    (again,) = by_insertions(exposures, np.ones(2000), rng=_rng(2))
    (other,) = by_insertions(exposures, np.ones(2000), rng=_rng(3))
    assert level == again
    assert level.interval != other.interval
    reach = 1.96 * exposures.bits.std() / math.sqrt(2000)
    assert level.interval.low == pytest.approx(level.mean - reach, abs=0.1 * reach)
    assert level.interval.high == pytest.approx(level.mean + reach, abs=0.1 * reach)


def test_the_tests_see_leakage_and_agree_among_many_candidates():
    leaking = _of(1 + _rng(1).integers(0, 1001, 60) // 2)
    assert chi_square_p(leaking) < 1e-4
    for seed in range(5):
        ranks = _of(_rng(seed).integers(1, 1002, 60))
        assert rank_p(ranks) == pytest.approx(chi_square_p(ranks), abs=0.02)


def test_among_few_candidates_the_law_of_ranks_finds_what_chi_square_cannot():
    ranks = np.repeat(np.arange(1, 11), [14] * 5 + [6] * 5)
    assert rank_p(_of(ranks, 10)) < 0.01
    assert chi_square_p(_of(ranks, 10)) > 0.05


# Reduction.


def test_reduction_is_counted_above_the_floor():
    plain, protected = _of([1] * 20), _of([16] * 20)
    found = exposure_reduction(plain, protected, rng=_rng())
    above = math.log2(1001) - floor_of(1001)
    assert found.value == pytest.approx(4 / above)
    assert found.interval is None
    assert "alike for every canary" in found.reason
    assert exposure_reduction(plain, plain, rng=_rng()).value == 0
    uneven = exposure_reduction(plain, _of([12, 20] * 10), rng=_rng())
    assert uneven.interval.low < uneven.value < uneven.interval.high
    assert uneven.reason is None


def test_reduction_of_nothing_is_undefined():
    found = exposure_reduction(_of(_rng(1).integers(1, 1002, 40)), _of([900] * 40), rng=_rng())
    assert found.value is None
    assert found.interval is None
    assert "does not leak" in found.reason


def test_pairing_narrows_the_interval():
    plain = np.array([1, 2, 4, 8, 16, 32] * 10)
    paired = exposure_reduction(_of(plain), _of(plain * 2), rng=_rng())
    shuffled = exposure_reduction(_of(plain), _of(_rng(5).permutation(plain * 2)), rng=_rng())
    assert paired.value == pytest.approx(shuffled.value)
    width = paired.interval.high - paired.interval.low
    assert width < 0.5 * (shuffled.interval.high - shuffled.interval.low)


def test_a_plain_exposure_near_the_floor_leaves_the_interval_open():
    ranks = [1, 1, 1, 1, 2000, 2000, 2000, 2000, 2000, 2000]
    found = exposure_reduction(_of(ranks, 2000), _of([1000] * 10, 2000), rng=_rng())
    assert found.value is not None
    assert found.interval is None
    assert "more canaries" in found.reason


def test_too_few_canaries_have_a_value_but_no_interval():
    found = exposure_reduction(_of([1, 1, 1]), _of([9, 9, 9]), rng=_rng())
    assert found.value == pytest.approx(
        1 - (math.log2(1001 / 9) - found.floor) / (math.log2(1001) - found.floor)
    )
    assert found.interval is None
    assert "too few" in found.reason


def test_runs_with_other_canaries_are_refused():
    with pytest.raises(ValueError, match="same canaries"):
        exposure_reduction(_of([1, 2]), _of([1]), rng=_rng())


# Extrapolation.

LAW = stats.skewnorm(4)


def _references(law, n: int = 1000, *, seed: int = 0):
    return law.rvs(size=n, random_state=_rng(seed))


def test_extrapolation_goes_beyond_the_cap_where_the_law_is_right():
    found = extrapolated_exposure(
        LAW.ppf(2**-16), _references(LAW, seed=1), secret_bits=30, rng=_rng()
    )
    assert found.reason is None
    assert found.value == pytest.approx(16, abs=4)
    assert found.interpolated == found.cap == math.log2(1001)


def test_extrapolation_is_cut_at_the_number_of_secrets():
    found = extrapolated_exposure(-50.0, _references(LAW, seed=1), secret_bits=13, rng=_rng())
    assert found.value == found.ceiling == 13


def test_extrapolation_agrees_below_the_cap():
    found = extrapolated_exposure(
        LAW.ppf(2**-4), _references(LAW, seed=1), secret_bits=30, rng=_rng()
    )
    assert found.value == pytest.approx(found.interpolated, abs=0.3)
    assert found.value == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        (_references(stats.t(4), 4000), "does not fit"),
        (_references(stats.norm(), 150), "too few"),
        (np.append(_references(stats.norm()), np.inf), "infinite"),
        (np.ones(500), "all equal"),
        (np.append(_references(stats.norm(), 3996), [-6.0] * 4), "tail"),
    ],
    ids=["heavy", "few", "infinite", "equal", "tail"],
)
def test_the_gate_says_why_it_is_shut(references, reason):
    found = extrapolated_exposure(-10.0, references, secret_bits=30, rng=_rng())
    assert found.value is None
    assert reason in found.reason
    assert 0 < found.interpolated <= found.cap


def test_a_loss_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="give numbers"):
        extrapolated_exposure(math.nan, np.arange(500.0), secret_bits=30, rng=_rng())


N_SECRETS = 5000
NOBODY_ASKS = Probes(inputs=np.zeros((0, 1)), labels=np.zeros(0, int), scored=np.zeros(0, bool))


def _lineups(secrets, *, exact: bool = False) -> Lineups:
    """Return lineups of canaries with secret 7, which stands first."""
    canary = Canary(number=0, seed=0, secret=7, insertions=4, holders=(0,))
    each = tuple(
        Lineup(canary=canary, probes=NOBODY_ASKS, secrets=row, own=0) for row in np.asarray(secrets)
    )
    return Lineups(each=each, exact=exact, n_secrets=N_SECRETS)


def _four(seed: int = 2):
    """Return candidates and losses: far out, tied with a copy of itself, second, heavy tails."""
    secrets = np.tile(np.append(7, np.arange(1000, 2000)), (4, 1))
    secrets[1, 3] = 7
    losses = np.stack([np.append(-9.0, _references(LAW, seed=seed + n)) for n in range(3)])
    losses[1, 3] = losses[1, 0]
    losses[2, 9] = -10.0
    heavy = np.append(-60.0, _references(stats.t(3), seed=9))
    return secrets, np.vstack([losses, heavy])


def test_canaries_at_the_cap_are_extrapolated_and_no_others():
    secrets, losses = _four()
    far, copied, second, heavy = _lineups(secrets).extrapolations(losses, rng=_rng())
    assert far.value == far.ceiling == math.log2(N_SECRETS)
    assert far.interpolated == far.cap == math.log2(1001)
    assert copied.value == copied.ceiling
    assert copied.cap == math.log2(1000), "a copy of its own secret is no reference"
    assert second is None
    assert heavy.value is None
    assert "does not fit" in heavy.reason


def test_exact_ranks_leave_nothing_to_extrapolate():
    secrets, losses = _four()
    assert _lineups(secrets, exact=True).extrapolations(losses, rng=_rng()) is None


def test_extrapolating_leaves_all_other_draws_as_they_are_and_repeats():
    secrets, losses = _four()
    rng, line = _rng(3), _lineups(secrets)
    first = line.extrapolations(losses, rng=rng)
    assert rng.random() == _rng(3).random()
    assert line.extrapolations(losses, rng=_rng(3)) == first


def test_a_row_tells_how_many_gates_opened_and_changes_nothing_else():
    secrets, losses = _four()
    line = _lineups(secrets)
    exposures = line.exposures(losses)

    def told(extrapolations):
        found = extraction(exposures, [4] * 4, extrapolations=extrapolations, rng=_rng())
        result = Result(at_risk="canary secrets", extraction=found)
        return channel_row(attacks.get("canary_student")(), result, status="ran", reason="")

    plain, row = told(None), told(line.extrapolations(losses, rng=_rng()))
    assert (plain["ranking"], row["ranking"]) == ("exact", "sampled")
    (level,) = row["levels"]
    beyond = level.pop("extrapolation")
    assert (beyond["at_cap"], beyond["opened"]) == (3, 2)
    assert beyond["low"] == beyond["mean"] == beyond["high"] == beyond["ceiling"]
    assert "does not fit" in beyond["reason"]
    assert plain["levels"][0].pop("extrapolation") is None
    each = [one.pop("extrapolation") for one in row["exposures"]]
    assert [one and one["value"] for one in each] == [*[beyond["mean"]] * 2, None, None]
    assert each[0].keys() == each[3].keys() > {"fit_p", "tail_p", "cap", "ceiling", "reason"}
    assert {one.pop("extrapolation") for one in plain["exposures"]} == {None}
    assert row | {"ranking": "exact"} == plain
