"""Robust rules against NumPy, SciPy and naive loops, and against uploads that lie.

``test_byzfl.py`` has another library's rules beside ours.
"""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import trim_mean

from fedkd.aggregators import ballots
from fedkd.aggregators.base import aggregators
from fedkd.aggregators.cosine_filter import CosineFilter
from fedkd.aggregators.geometric_median import GeometricMedian
from fedkd.aggregators.mean import Mean
from fedkd.aggregators.median import Median
from fedkd.aggregators.middle import weighted_median
from fedkd.aggregators.multikrum import MultiKrum
from fedkd.aggregators.outlier_weights import OutlierWeights
from fedkd.aggregators.trimmed_mean import TrimmedMean, at_most
from fedkd.errors import ConfigError
from fedkd.types import Knowledge, Space

N_ROWS, N_CLASSES = 12, 5
ROBUST = ["cosine_filter", "geometric_median", "median", "multikrum", "outlier_weights"]
ROBUST += ["trimmed_mean"]


def _upload(scores, rows=None, weights=None) -> Knowledge:
    scores = torch.as_tensor(scores, dtype=torch.float32)
    rows = torch.arange(len(scores)) if rows is None else torch.as_tensor(rows, dtype=torch.int64)
    return Knowledge(
        rows=rows,
        scores=scores,
        weights=torch.ones(len(rows)) if weights is None else torch.as_tensor(weights),
        space=Space.PROBS,
        temperature=2.0,
    )


def _probabilities(n: int, *, seed: int, n_rows: int = N_ROWS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(N_CLASSES), size=(n, n_rows)).astype(np.float32)


def _run(aggregator, uploads, *, n_rows: int = N_ROWS):
    return aggregator.aggregate(uploads, n_rows=n_rows, rng=torch.Generator())


def _scaled(rows: np.ndarray) -> np.ndarray:
    return rows / rows.sum(axis=-1, keepdims=True)


def _close(consensus, expected, *, atol: float = 1e-6):
    np.testing.assert_allclose(consensus.scores.numpy(), expected, atol=atol)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10])
def test_the_median_is_numpys_scaled_to_one(n):
    said = _probabilities(n, seed=n)
    expected = _scaled(np.median(said.astype(np.float64), axis=0))
    _close(_run(Median(), [_upload(one) for one in said]), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 11])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.45])
def test_the_trimmed_mean_is_scipys_scaled_to_one(n, share):
    said = _probabilities(n, seed=n)
    cut = min(at_most(share, n), (n - 1) // 2)
    expected = _scaled(trim_mean(said.astype(np.float64), cut / n + 1e-12, axis=0))
    _close(_run(TrimmedMean(share=share), [_upload(one) for one in said]), expected)


def test_shares_are_rounded_up_but_not_for_roundings_sake():
    assert [at_most(0.3, n) for n in (0, 1, 3, 10, 11)] == [0, 1, 1, 3, 4]
    assert at_most(0.1 + 0.2, 10) == 3  # 0.30000000000000004
    assert at_most(0.0, 10) == 0


@pytest.mark.parametrize("n", [3, 4, 6, 10])
def test_no_point_has_a_smaller_sum_of_distances_than_the_geometric_median(n):
    said = _probabilities(n, seed=n, n_rows=4).astype(np.float64)
    weights = np.random.default_rng(n).uniform(0.2, 1, size=(n, 4)).astype(np.float32)
    uploads = [_upload(one, weights=w) for one, w in zip(said, weights, strict=True)]
    found = _run(GeometricMedian(iterations=1000), uploads, n_rows=4).scores.double().numpy()
    for row in range(4):

        def cost(point, row=row):
            return float(weights[:, row] @ np.linalg.norm(said[:, row] - point, axis=1))

        best = minimize(cost, said[:, row].mean(axis=0), method="Nelder-Mead", tol=1e-10)
        assert cost(found[row]) <= best.fun + 1e-5


def _naive_multikrum(said: np.ndarray, f: int) -> np.ndarray:
    flat = said.reshape(len(said), -1).astype(np.float64)
    n, scores = len(flat), []
    for i in range(n):
        distances = sorted(float(((flat[i] - flat[j]) ** 2).sum()) for j in range(n) if j != i)
        scores.append(sum(distances[: n - f - 1]))
    best = np.argsort(scores)[: n - f]
    return said[best].astype(np.float64).mean(axis=0)


@pytest.mark.parametrize(
    ("n", "share", "f"), [(5, 0.2, 1), (9, 0.3, 3), (10, 0.2, 2), (12, 0.3, 4)]
)
def test_multikrum_picks_what_the_naive_loop_picks(n, share, f):
    said = _probabilities(n, seed=10 * n)
    found = _run(MultiKrum(share=share), [_upload(one) for one in said])
    _close(found, _naive_multikrum(said, f))
    assert set(found.keepers.tolist()) == {n - f}


@pytest.mark.parametrize(("n", "left_out"), [(1, 0), (4, 0), (5, 1), (6, 1), (7, 2), (9, 3)])
def test_multikrum_never_leaves_out_more_than_its_bound_allows(n, left_out):
    said = _probabilities(n, seed=n)
    found = _run(MultiKrum(share=0.45), [_upload(one) for one in said])
    assert set(found.keepers.tolist()) == {n - left_out}


@given(
    n=st.integers(1, 7),
    seed=st.integers(0, 1000),
    quarters=st.lists(st.integers(1, 4), min_size=7, max_size=7),
)
def test_a_weighted_median_is_the_median_with_everybody_repeated(n, seed, quarters):
    said = _probabilities(n, seed=seed).astype(np.float64)
    repeated = np.repeat(said, quarters[:n], axis=0)
    weights = torch.tensor(quarters[:n], dtype=torch.float64).repeat(N_ROWS, 1) / 4
    found = weighted_median(torch.from_numpy(said).transpose(0, 1), weights)
    np.testing.assert_allclose(found.numpy(), np.median(repeated, axis=0), atol=1e-12)


def test_weights_count_in_every_rule():
    said = _probabilities(4, seed=3)
    for name in ROBUST:
        full, light = (
            _run(
                aggregators.get(name)(),
                [
                    _upload(one, weights=torch.full((N_ROWS,), w))
                    for one, w in zip(said, ws, strict=True)
                ],
            ).scores
            for ws in ([1.0, 1.0, 1.0, 1.0], [1.0, 0.1, 0.1, 0.1])
        )
        goal = torch.from_numpy(said[0])
        nearer = (light - goal).norm() < (full - goal).norm()
        assert bool(nearer), name


def test_where_sure_keepers_all_disagree_the_mean_stands_in():
    uploads = [_upload(np.eye(N_CLASSES, dtype=np.float32)[[n]]) for n in range(3)]
    for rule in (Median(), TrimmedMean()):
        found = _run(rule, uploads, n_rows=1).scores[0]
        torch.testing.assert_close(found, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0]))


RAGGED = [{0, 1, 2, 5}, {1, 2}, {2, 5, 7}, set(), {0, 2, 11}, {2}]


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "geometric_median"])
def test_a_row_is_decided_by_its_own_keepers_alone(name):
    said, rule = _probabilities(len(RAGGED), seed=5), aggregators.get(name)()
    uploads = [
        _upload(one[sorted(rows)], sorted(rows)) for one, rows in zip(said, RAGGED, strict=True)
    ]
    whole = _run(rule, uploads)
    assert whole.rows.tolist() == sorted(set().union(*RAGGED))
    for place, row in enumerate(whole.rows.tolist()):
        mine = [_upload(one[[row]]) for one, kept in zip(said, RAGGED, strict=True) if row in kept]
        alone = _run(rule, mine, n_rows=1)
        assert torch.equal(alone.scores[0], whole.scores[place])
        assert whole.keepers[place] == len(mine)


@pytest.mark.parametrize("name", ROBUST)
def test_the_size_of_blocks_does_not_show(name, monkeypatch):
    said = _probabilities(len(RAGGED), seed=6)
    uploads = [
        _upload(one[sorted(rows)], sorted(rows)) for one, rows in zip(said, RAGGED, strict=True)
    ]
    whole = _run(aggregators.get(name)(), uploads)
    monkeypatch.setattr(ballots, "BLOCK", 1)
    monkeypatch.setattr("fedkd.aggregators.pairs.BLOCK", 1)
    by_row = _run(aggregators.get(name)(), uploads)
    assert torch.equal(whole.rows, by_row.rows)
    torch.testing.assert_close(whole.scores, by_row.scores, rtol=1e-6, atol=1e-7)


def test_a_block_is_never_larger_than_it_may_be(monkeypatch):
    monkeypatch.setattr(ballots, "BLOCK", 200)
    said = _probabilities(8, seed=1, n_rows=50)
    state = ballots.Ballots(uploads=tuple(_upload(one) for one in said), n_rows=50)
    sizes = [block.scores.numel() for block in ballots.blocks(state)]
    assert max(sizes) <= 200
    assert sum(sizes) == said.size


@pytest.mark.parametrize("name", ROBUST)
def test_uploads_that_agree_are_averaged_as_they_are(name):
    base = _probabilities(1, seed=2)[0]
    rng = np.random.default_rng(0)
    said = [_scaled(base * rng.uniform(0.95, 1.05, base.shape)) for _ in range(8)]
    found = _run(aggregators.get(name)(), [_upload(one) for one in said])
    _close(found, np.mean(said, axis=0), atol=0.02)


@pytest.mark.parametrize("name", ["cosine_filter", "multikrum", "outlier_weights"])
def test_with_its_dial_at_zero_it_is_the_mean_bit_by_bit(name):
    (dial,) = dataclasses.fields(aggregators.get(name))
    uploads = [_upload(one) for one in _probabilities(9, seed=4)]
    found, mean = (_run(a, uploads) for a in (aggregators.get(name)(**{dial.name: 0.0}), Mean()))
    assert torch.equal(found.scores, mean.scores)
    assert torch.equal(found.keepers, mean.keepers)


def _crowd(n_liars: int, *, seed: int = 0, n: int = 10) -> tuple[list[Knowledge], np.ndarray]:
    """Return honest uploads that agree by and large, liars, and what the honest mean says.

    Liars are sure of the class that is least likely to the honest.
    """
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet(np.full(N_CLASSES, 0.3), size=40) + 0.01
    honest = [_scaled(truth * rng.gamma(8, 1 / 8, truth.shape)) for _ in range(n - n_liars)]
    lie = np.eye(N_CLASSES, dtype=np.float32)[np.mean(honest, axis=0).argmin(axis=1)]
    return [_upload(one) for one in (*honest, *[lie] * n_liars)], np.mean(honest, 0).argmax(axis=1)


def _right(consensus, labels) -> float:
    return float((consensus.scores.argmax(dim=1).numpy() == labels[consensus.rows]).mean())


@pytest.mark.parametrize("name", ROBUST)
def test_four_liars_of_ten_turn_the_mean_and_three_no_robust_rule(name):
    uploads, labels = _crowd(4)
    assert _right(_run(Mean(), uploads, n_rows=40), labels) < 0.85
    uploads, labels = _crowd(3)
    assert _right(_run(aggregators.get(name)(), uploads, n_rows=40), labels) > 0.9


@pytest.mark.parametrize("rule", [MultiKrum(), CosineFilter()])
def test_rows_that_only_those_left_out_kept_are_absent(rule):
    uploads, _ = _crowd(3)
    honest = [
        dataclasses.replace(u, rows=u.rows[:30], scores=u.scores[:30], weights=u.weights[:30])
        for u in uploads[:7]
    ]
    found = _run(rule, [*honest, *uploads[7:]], n_rows=40)
    assert found.rows.tolist() == list(range(30))
    assert set(found.keepers.tolist()) == {7}


@pytest.mark.parametrize("rule", [MultiKrum(), CosineFilter(), OutlierWeights()])
def test_who_shares_no_row_is_not_judged_and_stays(rule):
    uploads, _ = _crowd(3)
    hermit = _upload(np.eye(N_CLASSES, dtype=np.float32)[[0]], rows=[40])
    found = _run(rule, [*uploads, hermit], n_rows=41)
    assert found.rows[-1] == 40
    assert torch.equal(found.scores[-1], hermit.scores[0])


def test_liars_with_rows_of_their_own_do_not_look_close_to_everybody():
    uploads, _ = _crowd(3, n=9)
    apart = [
        dataclasses.replace(u, rows=u.rows[-8:], scores=u.scores[-8:], weights=u.weights[-8:])
        for u in uploads[6:]
    ]
    honest = [
        dataclasses.replace(u, rows=u.rows[:-7], scores=u.scores[:-7], weights=u.weights[:-7])
        for u in uploads[:6]
    ]
    found = _run(MultiKrum(), [*honest, *apart], n_rows=40)
    assert found.keepers[:30].min() == 6
    assert found.rows.max() < 33


def test_one_that_scores_twice_the_median_is_worth_what_the_dial_says():
    moves = np.array([-0.1, -0.1, -0.1, 0.0, 0.1, 0.1, 0.2])  # the median is 0, its score 0.1
    said = [np.tile([0.5 + move, 0.5 - move], (4, 1)) for move in moves]
    found = _run(OutlierWeights(sharpness=2.0), [_upload(one) for one in said], n_rows=4)
    worth = np.array([1, 1, 1, 1, 1, 1, np.exp(-2.0)])
    expected = 0.5 + worth @ moves / worth.sum()
    np.testing.assert_allclose(found.scores[:, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", ROBUST)
def test_temperatures_told_row_by_row_stay_within_what_was_told(name):
    uploads = [
        dataclasses.replace(_upload(one), row_temperatures=torch.full((N_ROWS,), float(t)))
        for one, t in zip(_probabilities(5, seed=1), (2, 3, 3, 3, 9), strict=True)
    ]
    told = _run(aggregators.get(name)(), uploads).row_temperatures
    assert bool(((told >= 2) & (told <= 9)).all())
    if not aggregators.get(name)().leaves_out and name != "outlier_weights":
        assert told.tolist() == [3.0] * N_ROWS


@pytest.mark.parametrize("name", ROBUST)
def test_logits_are_refused(name):
    upload = dataclasses.replace(_upload(_probabilities(1, seed=0)[0]), space=Space.LOGITS)
    assert aggregators.get(name)().spaces == {Space.PROBS}
    with pytest.raises(ConfigError, match=r"'logits'.*kl"):
        _run(aggregators.get(name)(), [upload])


def test_the_pairs_are_what_a_loop_over_shared_rows_finds():
    from fedkd.aggregators.pairs import compared

    said = _probabilities(len(RAGGED), seed=8)
    kept = [sorted(rows) for rows in RAGGED]
    state = ballots.Ballots(
        uploads=tuple(_upload(one[rows], rows) for one, rows in zip(said, kept, strict=True)),
        n_rows=N_ROWS,
    )
    pairs = compared(state)
    for i, j in combinations(range(len(RAGGED)), 2):
        shared = sorted(RAGGED[i] & RAGGED[j])
        if not shared:
            assert pairs.distances[i, j].isnan()
            assert pairs.cosines[i, j].isnan()
            continue
        a, b = said[i][shared].astype(float), said[j][shared].astype(float)
        distance = ((a - b) ** 2).sum(axis=1).mean()
        cosine = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
        assert float(pairs.distances[j, i]) == pytest.approx(distance)
        assert float(pairs.cosines[i, j]) == pytest.approx(cosine)
    assert pairs.judged().tolist() == [True, True, True, False, True, True]
