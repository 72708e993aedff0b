"""Stolen copies and pictures of classes: from real uploads, and from masked ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkd.audit.attacks.base import Attack
from fedkd.audit.attacks.paired_logits_inversion import (
    PairedLogitsInversion,
    _Drawn,
    fair_means,
)
from fedkd.audit.attacks.surrogate_agreement import SurrogateAgreement, all_uploads
from fedkd.audit.attacks.surrogates import share_of
from fedkd.audit.findings import Result
from fedkd.audit.similarity import ssim
from fedkd.audit.views import NotSeen
from fedkd.training.steps import Examples
from tests.fedkd.audit.attacks.views import World, world

COPY, PICTURE = SurrogateAgreement(clients=2, passes=25), PairedLogitsInversion()
both = pytest.mark.parametrize("attack", [COPY, PICTURE], ids=["copy", "picture"])


def _run(attack: Attack, on: World, seed: int = 0) -> Result:
    assert attack.applies(on.bench, on.truth) == ""
    return attack.run(on.view, on.bench, on.truth, rng=np.random.default_rng(seed))


@pytest.fixture(scope="module")
def skewed() -> World:
    """Four clients with few classes each, two rounds."""
    return world(n_clients=4, alpha=0.5, rounds=2)


def test_a_copy_answers_like_the_client(skewed):
    private, alike = _run(COPY, skewed).figures
    for figure in (private, alike):
        assert figure.value > figure.chance
        assert figure.p < 0.01
        assert figure.interval[0] <= figure.value <= figure.interval[1]


def test_a_copy_of_masked_uploads_is_no_copy(skewed):
    private, alike = _run(COPY, skewed.masked()).figures
    assert private.value < private.chance
    assert private.p > 0.05
    assert alike.p > 0.05


def test_later_rounds_count_more(skewed):
    found = all_uploads(skewed.view, n_classes=10)[0]
    first, second = (skewed.view.sent[n][0].scores.double() for n in (1, 2))
    assert torch.allclose(found.scores.double(), (first + 2 * second) / 3, atol=1e-6)


def test_pictures_name_the_class_and_masked_uploads_do_not(skewed):
    found, alone, nearer = _run(PICTURE, skewed).figures
    assert found.value > 0.5
    assert found.chance == max(0.1, alone.value)
    assert alone.chance == 0.1
    assert found.p < 0.05
    assert alone.value < found.value
    assert nearer.value > 0
    masked, *_ = _run(PICTURE, skewed.masked()).figures
    assert masked.value < 0.35
    assert masked.p > 0.05


def _drawn(alone_hits: int, hits: int, n: int = 20) -> list[_Drawn]:
    """Return pictures of ten classes, two of each; the first so many are hits."""
    return [
        _Drawn(
            asked=k % 10,
            named=(k if k < hits else k + 1) % 10,
            alone=(k if k < alone_hits else k + 1) % 10,
            nearer=None,
        )
        for k in range(n)
    ]


@pytest.mark.parametrize(("alone", "leak"), [(0, True), (2, True), (16, False), (20, False)])
def test_what_the_consensus_alone_draws_is_no_leak_of_uploads(alone, leak):
    rng = np.random.default_rng(0)
    found, beside = PICTURE._figures(_drawn(alone, 18), chance=0.1, rng=rng)
    assert (found.value, beside.value) == (0.9, alone / 20)
    assert found.chance == max(0.1, alone / 20)
    assert (found.p < 0.05) == leak


def test_a_mean_of_more_examples_is_no_likeness():
    rng = np.random.default_rng(0)
    own, public = (
        Examples(
            inputs=torch.from_numpy(rng.integers(256, size=(n, 1, 8, 8), dtype=np.uint8)),
            labels=torch.zeros(n, dtype=torch.int64),
        )
        for n in (400, 8)
    )
    pair = fair_means(own, public, 0, rng=rng)
    assert pair is not None
    assert pair[0].std() == pytest.approx(pair[1].std(), rel=0.3)
    assert fair_means(own, public, 1, rng=rng) is None


@both
def test_the_rng_alone_decides_and_uploads_are_needed(attack, skewed):
    assert _run(attack, skewed, 1).figures == _run(attack, skewed, 1).figures
    with pytest.raises(NotSeen):
        _run(attack, skewed.seen(blind=True))


@both
def test_two_clients_are_warned_about(attack):
    assert "With 2 clients" in _run(attack, world(n_clients=2, each=30)).note


def test_pictures_are_of_small_images_only(skewed):
    large = Examples(inputs=torch.zeros(1, 1, 64, 64), labels=torch.zeros(1, dtype=torch.int64))
    bench = replace(skewed.bench, public=large)
    assert "32 x 32" in PICTURE.applies(bench, skewed.truth)
    table = Examples(inputs=torch.zeros(1, 9), labels=torch.zeros(1, dtype=torch.int64))
    assert "no images" in PICTURE.applies(replace(skewed.bench, public=table), skewed.truth)


def test_ssim_against_the_formula():
    """An image of 7 x 7 pixels is one window."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 7, 7))
    shared = np.cov(a.ravel(), b.ravel())
    top = (2 * a.mean() * b.mean() + 1e-4) * (2 * shared[0, 1] + 9e-4)
    bottom = (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (shared[0, 0] + shared[1, 1] + 9e-4)
    assert ssim(a, b) == pytest.approx(top / bottom)
    assert ssim(a, a) == pytest.approx(1)
    wide = rng.random((3, 9, 11))
    assert ssim(wide, wide) == pytest.approx(1)
    assert ssim(wide, 1 - wide) < 0


def test_shares_are_compared_question_by_question():
    hits = np.array([True] * 8 + [False] * 2)
    chance = np.array([True] * 2 + [False] * 6 + [True] + [False])
    figure = share_of(hits, chance, "share")
    assert (figure.value, figure.chance) == (0.8, 0.3)
    assert figure.p == pytest.approx(8 / 2**7)  # 6 of 7 or more heads
    assert share_of(hits, hits, "share").p == 1
