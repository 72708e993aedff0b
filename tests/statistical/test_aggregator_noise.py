"""The noise of the client-level aggregators has the law that its privacy event counts on.

All seeds are fixed, so nothing here is random from run to run. FALSE_ALARM is the chance, over
seeds, that a right implementation fails one of the tests; every test of a law comes with a wrong
law that the same test finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest, chi2, kstest, norm
from torch import Tensor

from fedkd.aggregators.base import Aggregator, Sums
from fedkd.aggregators.gnmax import GNMax, noisy_sums
from fedkd.aggregators.noisy_mean import NoisyMean
from fedkd.privacy.votes import noise_per_sum, unanimous_error
from fedkd.types import Knowledge, Space

FALSE_ALARM = 1e-3
N_ROWS, N_CLASSES = 10_000, 10
NOISE = 0.3
STD = NOISE * math.sqrt(2 * N_ROWS)
"""Standard deviation on each sum, by hand: multiplier times sensitivity of the whole release."""


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _uploads(counts: dict[int, int], *, n_rows: int = N_ROWS, n_classes: int = N_CLASSES):
    """Return clients who all say the same about every row: how many are sure of which class."""
    for kind, n_clients in counts.items():
        scores = torch.zeros(n_rows, n_classes)
        scores[:, kind] = 1
        upload = Knowledge(
            rows=torch.arange(n_rows),
            scores=scores,
            weights=torch.ones(n_rows),
            space=Space.PROBS,
        )
        yield from [upload] * n_clients


def _state(aggregator: Aggregator, uploads) -> Sums:
    parts = [aggregator.partial(upload, n_rows=len(upload)) for upload in uploads]
    state = parts[0]
    for part in parts[1:]:
        state = aggregator.merge(state, part)
    return state


def _noise(aggregator: Aggregator, *, seed: int, multiplier: float = NOISE) -> Tensor:
    """Return the noise on 100,000 sums of a mixed cohort, ``[rows, classes]``."""
    state = _state(aggregator, _uploads({0: 3, 4: 2}))
    return noisy_sums(state, multiplier, rng=_rng(seed)) - state.scores


def _law_of_mean(multiplier: float, *, seed: int) -> Tensor:
    """Return 10,000 draws of the noise that is left in finished, projected rows of two classes.

    Both classes hold half of the mass and the noise is small beside it, so that projection only
    centers each row: (noise of class 0 - noise of class 1) / 2 / clients.
    """
    uploads = list(_uploads({0: 50, 1: 50}, n_classes=2))
    mean = NoisyMean(noise_multiplier=multiplier)
    finished = mean.aggregate(uploads, n_rows=N_ROWS, rng=_rng(seed))
    return (finished.scores[:, 0].double() - 0.5) * len(uploads) * math.sqrt(2)


def _p_value(values: Tensor, std: float) -> float:
    """Return the Kolmogorov-Smirnov p-value of a centered normal law."""
    return float(kstest(values.flatten().tolist(), norm(scale=std).cdf).pvalue)


@pytest.mark.parametrize("aggregator", [GNMax(), NoisyMean()], ids=["gnmax", "noisy_mean"])
def test_sums_get_normal_noise_of_the_stated_size(aggregator):
    # 100,000 draws; a standard deviation 5 % off has a distance of 0.012, where 0.0062 fails.
    assert _p_value(_noise(aggregator, seed=1), STD) > FALSE_ALARM


@pytest.mark.parametrize("factor", [0.95, 1.05, 1 / math.sqrt(2)])
def test_the_law_test_finds_noise_of_another_size(factor):
    noise = _noise(GNMax(), seed=2, multiplier=NOISE * factor)
    assert _p_value(noise, STD) < FALSE_ALARM


def test_the_law_test_finds_another_law_of_the_same_size():
    half = torch.empty(2, N_ROWS, N_CLASSES, dtype=torch.float64).exponential_(generator=_rng(3))
    laplace = (half[0] - half[1]) * STD / math.sqrt(2)
    assert float(laplace.std()) == pytest.approx(STD, rel=0.02)
    assert _p_value(laplace, STD) < FALSE_ALARM


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (lambda noise: noise[:-1], lambda noise: noise[1:]),
        (lambda noise: noise[:, :-1], lambda noise: noise[:, 1:]),
    ],
    ids=["rows", "classes"],
)
def test_noise_is_drawn_anew_for_every_row_and_class(left, right):
    # About 90,000 pairs; correlation has a standard error of 1 / sqrt(pairs).
    assert _correlation_p_value(_noise(GNMax(), seed=4), left, right) > FALSE_ALARM
    one_row = _noise(GNMax(), seed=4)[:1].expand(N_ROWS, N_CLASSES)
    one_class = _noise(GNMax(), seed=4)[:, :1].expand(N_ROWS, N_CLASSES)
    shared = (one_row + _noise(GNMax(), seed=5), one_class + _noise(GNMax(), seed=5))
    assert min(_correlation_p_value(noise, left, right) for noise in shared) < FALSE_ALARM


def _correlation_p_value(
    noise: Tensor, left: Callable[[Tensor], Tensor], right: Callable[[Tensor], Tensor]
) -> float:
    pairs = torch.stack([left(noise).flatten(), right(noise).flatten()])
    correlation = float(torch.corrcoef(pairs)[0, 1])
    return 2 * float(norm.sf(abs(correlation) * math.sqrt(pairs.shape[1])))


# The same noise must be found in what leaves the server.


def test_a_finished_mean_carries_the_stated_noise():
    multiplier = 0.02
    std = multiplier * math.sqrt(2 * N_ROWS)
    assert 6 * std / 100 < 0.5, "the noise would reach the edge of the simplex"
    assert _p_value(_law_of_mean(multiplier, seed=6), std) > FALSE_ALARM
    # 10,000 draws; a standard deviation 12 % off has a distance of 0.029, where 0.0195 fails.
    for factor in (0.88, 1.12):
        assert _p_value(_law_of_mean(multiplier * factor, seed=7), std) < FALSE_ALARM


def test_a_mean_is_unbiased_before_it_is_projected():
    # 10,000 rows of 4 clients, the first with a weight of one half; noise of 0.7 on every mean.
    multiplier, uploads = 0.02, list(_uploads({0: 3, 1: 1}))
    uploads[0] = replace(uploads[0], weights=torch.full((N_ROWS,), 0.5))
    mean = NoisyMean(noise_multiplier=multiplier)
    state = _state(mean, uploads)
    means = noisy_sums(state, multiplier, rng=_rng(8)) / state.mass[:, None]
    expected = torch.tensor([2.5 / 4, 1 / 4] + [0.0] * 8, dtype=torch.float64)
    std = multiplier * math.sqrt(2 * N_ROWS) / 4
    assert _p_value_of_mean(means, expected, std) > FALSE_ALARM
    unweighted = torch.tensor([3 / 4, 1 / 4] + [0.0] * 8, dtype=torch.float64)
    assert _p_value_of_mean(means, unweighted, std) < FALSE_ALARM
    projected = mean.finish(state, rng=_rng(8)).scores.double()
    assert _p_value_of_mean(projected, expected, std) < FALSE_ALARM


def _p_value_of_mean(rows: Tensor, expected: Tensor, std: float) -> float:
    """Return the chi-square p-value of the mean row, given each entry's standard deviation."""
    errors = (rows.mean(dim=0) - expected) / (std / math.sqrt(len(rows)))
    return float(chi2.sf(float(errors.square().sum()), len(expected)))


@pytest.mark.parametrize("lead", [0, 10, 30, 60])
def test_a_vote_between_two_classes_is_won_as_often_as_the_noise_says(lead):
    ahead, behind = 40 + lead, 40
    multiplier = 0.4
    vote = GNMax(noise_multiplier=multiplier)
    uploads = list(_uploads({0: ahead, 1: behind}, n_classes=2))
    won = int(vote.aggregate(uploads, n_rows=N_ROWS, rng=_rng(9)).scores[:, 0].sum())
    std = multiplier * math.sqrt(2 * N_ROWS)
    chance = float(norm.cdf(lead / (math.sqrt(2) * std)))
    assert binomtest(won, N_ROWS, chance).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("n_clients", "n_classes", "multiplier"),
    [(20, 10, 0.1), (50, 10, 0.2), (100, 10, 0.2), (30, 3, 0.2), (5, 10, 0.05)],
)
def test_unanimous_votes_go_wrong_as_often_as_computed(n_clients, n_classes, multiplier):
    # 10,000 votes; an error rate of 0.3 is known to a standard error of 0.0046.
    vote = GNMax(noise_multiplier=multiplier)
    uploads = list(_uploads({1: n_clients}, n_classes=n_classes))
    right = int(vote.aggregate(uploads, n_rows=N_ROWS, rng=_rng(10)).scores[:, 1].sum())
    std = noise_per_sum(multiplier, n_rows=N_ROWS)
    chance = unanimous_error(n_clients, noise_std=std, n_classes=n_classes)
    assert 0.01 < chance < 0.95, "nothing to compare"
    assert binomtest(N_ROWS - right, N_ROWS, chance).pvalue > FALSE_ALARM
    wrong_std = unanimous_error(n_clients, noise_std=std * math.sqrt(2), n_classes=n_classes)
    assert binomtest(N_ROWS - right, N_ROWS, wrong_std).pvalue < FALSE_ALARM
