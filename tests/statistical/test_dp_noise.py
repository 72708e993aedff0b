"""The laws that the accounting of DP-SGD rests on: who is drawn, and what noise is added.

Every test has fixed seeds, so it passes or fails for good. ``ALARM`` is the chance with which a
test of correct code would have failed for a seed drawn afresh.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fedkd_clients.dp_training import PrivateGradients, Streams, dp_train_round
from scipy import stats
from torch import Tensor, nn

from fedkd.filters.base import ClientView
from fedkd.filters.dp_centroids import DPCentroids, class_table
from fedkd.privacy.events import SampledGaussian
from fedkd.privacy.settings import Privacy
from fedkd.rng import borrowed, noise_stream
from fedkd.scenario import Scenario
from fedkd.tasks import Classification, Task
from fedkd.training.recipe import OptimizerName, Training
from fedkd.training.steps import Examples, Student, make_optimizer

ALARM = 1e-3
N, RATE, STEPS = 20, 0.1, 2000
TRAINING = Training(optimizer=OptimizerName.SGD, learning_rate=0.5, batch_size=16)


class Indifferent(Task):
    """A task whose loss has no slope: every gradient is zero."""

    n_classes = 2
    rows_per_input = 1

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return 0 * logits.sum(dim=1)

    def correct(self, scores: Tensor, labels: Tensor) -> Tensor:
        return labels == 0

    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        return {}


def _streams(seed: int) -> Streams:
    purposes = {"sampling": "dp-sampling", "noise": "dp-noise", "module": "dp-module"}
    secret = {name: noise_stream(seed, purpose) for name, purpose in purposes.items()}
    return Streams(**secret, order=torch.Generator().manual_seed(0))


def _examples(n: int) -> Examples:
    return Examples(inputs=torch.arange(float(n))[:, None], labels=torch.arange(n) % 2)


def _train(module: nn.Module, n: int, task: Task, *, seed: int = 0, epochs: int = 1, **privacy):
    training = replace(TRAINING, local_epochs=epochs)
    student = Student(module=module, optimizer=make_optimizer(module, training))
    return dp_train_round(
        student,
        _examples(n),
        None,
        scenario=Scenario(training=training, privacy=Privacy(**privacy)),
        task=task,
        streams=_streams(seed),
    )


# Sampling.


def _drawn(seed: int = 0) -> np.ndarray:
    """Return which of N examples moved the gradient of each of STEPS steps, bool ``[steps, N]``."""
    with borrowed(torch.Generator()):
        layer = nn.Linear(N, 2)  # an example's input is a row of the unit matrix
    module = nn.Sequential(nn.Flatten(), layer)
    student = Student(module=module, optimizer=make_optimizer(module, TRAINING))
    gradients = PrivateGradients(
        student,
        Examples(inputs=torch.eye(N), labels=torch.arange(N) % 2),
        scenario=Scenario(
            training=TRAINING, privacy=Privacy(noise_multiplier=1e-6, sampling_probability=RATE)
        ),
        task=Classification(2),
        streams=_streams(seed),
    )
    drawn = np.zeros((STEPS, N), dtype=bool)
    with gradients.attached(STEPS):
        for step in range(STEPS):
            gradients.compute()
            assert layer.weight.grad is not None
            drawn[step] = (layer.weight.grad[0].abs() > 1e-3).numpy()
    event = gradients.event()
    assert isinstance(event, SampledGaussian)
    assert event.count == STEPS
    return drawn


def _binomial_p(sizes: np.ndarray, *, tail: int = 6) -> float:
    """Return the chi-square p-value of batch sizes being Binomial(N, RATE)."""
    law = stats.binom(N, RATE)
    expected = len(sizes) * np.append(law.pmf(np.arange(tail)), law.sf(tail - 1))
    observed = np.bincount(np.minimum(sizes, tail), minlength=tail + 1)
    return float(stats.chisquare(observed, expected).pvalue)


def test_batch_sizes_are_binomial_and_examples_are_drawn_alike_and_independently():
    drawn = _drawn()
    assert _binomial_p(drawn.sum(axis=1)) > ALARM
    often = drawn.sum(axis=0)
    scaled = (often - STEPS * RATE) ** 2 / (STEPS * RATE * (1 - RATE))
    assert stats.chi2(N).sf(scaled.sum()) > ALARM
    pairs = np.corrcoef(drawn.T)[np.triu_indices(N, 1)]
    largest = np.abs(pairs).max() * np.sqrt(STEPS)
    assert 2 * len(pairs) * stats.norm.sf(largest) > ALARM  # Bonferroni over the 190 pairs


def test_shuffled_or_fixed_batches_would_be_noticed():
    rng = np.random.default_rng(0)
    fixed = np.full(STEPS, round(N * RATE))
    assert _binomial_p(fixed) < 1e-100
    nearly = rng.binomial(N, 1.15 * RATE, size=STEPS)  # the wrong rate, by 15 %
    assert _binomial_p(nearly) < ALARM
    rounded = rng.binomial(N, 1 / 9, size=STEPS)  # one over a number of batches
    assert _binomial_p(rounded) < ALARM


# Noise.

WIDTH = 50_000
LEVEL = 2.0 * 0.7 / 16
"""Standard deviation of the private gradient: noise multiplier times clip norm over batch size."""


def _noise(n: int, task: Task, *, seed: int = 0, steps: int = 1, scale: float = 1.0) -> Tensor:
    """Return the gradient that ``steps`` steps of one round took the mean of, ``[2 * WIDTH]``."""
    module = nn.Linear(1, WIDTH, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    _train(
        module,
        n,
        task,
        seed=seed,
        epochs=steps,
        noise_multiplier=2.0 * scale,
        clip_norm=0.7,
        sampling_probability=1.0,
    )
    moved = torch.cat([p.detach().flatten() for p in module.parameters()])
    return -moved / TRAINING.learning_rate


def _normal_p(found: Tensor, std: float) -> float:
    return float(stats.kstest(found.numpy(), stats.norm(scale=std).cdf).pvalue)


@pytest.mark.parametrize("n", [0, 1, 40])
def test_the_noise_is_normal_with_the_public_deviation_however_many_examples(n):
    found = _noise(n, Indifferent())
    assert _normal_p(found, LEVEL) > ALARM
    spread = float((found / LEVEL).square().sum())
    assert 2 * min(stats.chi2(len(found)).cdf(spread), stats.chi2(len(found)).sf(spread)) > ALARM


@pytest.mark.parametrize("scale", [0.97, 1.03])
def test_noise_three_percent_off_would_be_noticed(scale):
    assert _normal_p(_noise(40, Indifferent(), scale=scale), LEVEL) < ALARM


def test_noise_of_other_steps_and_other_seeds_is_independent():
    one, other = _noise(0, Indifferent(), seed=1), _noise(0, Indifferent(), seed=2)
    size = np.sqrt(len(one))
    assert abs(stats.pearsonr(one.numpy(), other.numpy()).statistic) * size < stats.norm.isf(
        ALARM / 2
    )
    # With momentum 0.9, two steps move by 1.9 a + b; were b = a, the deviation would be 2.9.
    both = _noise(0, Indifferent(), seed=1, steps=2)
    assert _normal_p(both, LEVEL * float(np.hypot(1.9, 1.0))) > ALARM
    second = both - 1.9 * one
    assert abs(stats.pearsonr(one.numpy(), second.numpy()).statistic) * size < stats.norm.isf(
        ALARM / 2
    )


# The filter that is a release.


def _view(n: int = 60, *, d: int = 40) -> ClientView:
    rng = torch.Generator().manual_seed(4)
    return ClientView(
        private=torch.randn(n, d, generator=rng),
        contributed=torch.zeros(n, dtype=torch.bool),
        proxy=torch.randn(80, d, generator=rng),
        own=torch.zeros(80, dtype=torch.bool),
        labels=torch.randint(0, 3, (n,), generator=rng),
        n_classes=100,
    )


def test_every_entry_of_the_table_gets_noise_of_the_stated_deviation():
    # A centroid is (sum + a) / (count + b). To first order, centroid * count - sum = a - m b for
    # the true mean m: normal, with deviation s sqrt(1 + m^2). The second order adds b^2 / count^2,
    # less than a thousandth of the variance here.
    view, filter_ = _view(600), DPCentroids(noise_multiplier=0.5)
    clip = view.proxy.norm(dim=1).median()
    table = class_table(view, clip=clip, n_classes=100)[:3]
    sums, counts = table[:, :-1], table[:, -1:]
    std = 0.5 * math.sqrt(2) * (1 + (sums / counts).square()).sqrt()
    found: list[Tensor] = []
    for seed in range(300):
        state = filter_.fit(view, rng=noise_stream(seed, "filter"))
        found.append((state["centroids"][:3].double() * counts - sums) / std)
    assert _normal_p(torch.stack(found).flatten(), 1.0) > ALARM
    assert _normal_p(1.05 * torch.stack(found).flatten(), 1.0) < ALARM


def test_classes_not_held_pass_for_held_ones_as_often_as_noise_exceeds_three_deviations():
    view, empty = _view(), 0
    for seed in range(100):
        state = DPCentroids().fit(view, rng=noise_stream(seed, "filter"))
        empty += len(state["centroids"])
    # 100 fits of 97 absent classes; the three held have counts of 20, against noise of 14.
    chance = 97 * stats.norm.sf(3) + 3 * stats.norm.sf(3 - 20 / (10 * np.sqrt(2)))
    assert 2 * stats.poisson(100 * chance).sf(empty - 1) > ALARM
    assert 2 * stats.poisson(100 * chance).cdf(empty) > ALARM
