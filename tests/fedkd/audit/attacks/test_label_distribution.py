"""Label distributions from answers and from masks: found where clients differ, not by chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkd.audit.attacks.base import Attack
from fedkd.audit.attacks.label_distribution import LabelDistribution, row_weights, scored_guesses
from fedkd.audit.attacks.side_channels import SideChannels, owners_told
from fedkd.audit.attacks.surrogates import better_p, divergence, untempered
from fedkd.audit.findings import Result
from fedkd.audit.views import NotSeen
from fedkd.types import Knowledge, Space
from tests.fedkd.audit.attacks.views import World, world


def _run(attack: Attack, on: World, seed: int = 0) -> Result:
    assert attack.applies(on.bench, on.truth) == ""
    return attack.run(on.view, on.bench, on.truth, rng=np.random.default_rng(seed))


@pytest.fixture(scope="module")
def skewed() -> World:
    """Eight clients with few classes each, which answer rows of these classes only."""
    return world(n_clients=8, each=40, alpha=0.3, own_classes_only=True)


@pytest.fixture(scope="module")
def open_handed() -> World:
    """Eight clients with few classes each, which answer all rows."""
    return world(n_clients=8, each=40, alpha=0.3)


def test_answers_to_all_rows_give_the_labels_away(open_handed):
    found = _run(LabelDistribution(), open_handed)
    mean, ridge = found.figures
    assert mean.value < mean.chance / 2
    assert ridge.value < ridge.chance
    assert mean.p == 2**-8
    assert ridge.p < 0.05
    assert len(found.labels) == 8
    for guess in found.labels:
        true = open_handed.truth.label_counts[guess.client]
        assert np.allclose(guess.true, true / true.sum())
        assert sum(guess.guessed) == pytest.approx(1)
        assert guess.kl == pytest.approx(divergence(np.array(guess.true), np.array(guess.guessed)))


def test_masked_answers_do_not(open_handed):
    for figure in _run(LabelDistribution(), open_handed.masked()).figures:
        assert figure.p > 0.05
        assert abs(figure.value - figure.chance) < 0.1


def test_guesses_about_the_wrong_clients_are_no_find(open_handed):
    """Twenty shuffles of who is who; at 5 % each, four or more alarms happen one time in 60."""
    alarms = 0
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(8)
        counts = open_handed.truth.label_counts[order]
        truth = replace(open_handed.truth, label_counts=counts)
        found = _run(LabelDistribution(references=0), replace(open_handed, truth=truth))
        alarms += found.figures[0].p < 0.05
    assert alarms < 4


def test_masks_alone_give_labels_away_where_filters_choose_by_class(skewed):
    found = _run(SideChannels(), skewed)
    kl, majority, owners = found.figures
    assert kl.p == 2**-8
    assert kl.value < kl.chance
    assert majority.value > majority.chance
    assert owners.name.startswith("AUC of weights")


def test_masks_of_all_rows_tell_nothing(open_handed):
    kl, majority = _run(SideChannels(), open_handed).figures
    assert kl.value == pytest.approx(kl.chance)
    assert kl.p > 0.05
    assert majority.p > 0.05


def test_masks_drawn_at_random_tell_nothing(open_handed):
    """Twenty draws; five or more alarms of either figure happen once in 390 for each."""
    alarms = [0, 0]
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        sent = {
            client: _some(upload, torch.rand(len(upload), generator=rng) < 0.3)
            for client, upload in open_handed.view.sent[1].items()
        }
        figures = _run(SideChannels(shuffles=99, passes=3), open_handed.seen(sent={1: sent}))
        for place, figure in enumerate(figures.figures[:2]):
            alarms[place] += figure.p < 0.05
    assert max(alarms) < 5


def test_told_temperatures_give_owners_away(open_handed):
    owner = open_handed.view.kept.owner
    sent = {
        client: replace(upload, row_temperatures=1.0 + 3 * (owner == client).float())
        for client, upload in open_handed.view.sent[1].items()
    }
    figures = _run(SideChannels(), open_handed.seen(sent={1: sent})).figures
    told = next(figure for figure in figures if "temperatures" in figure.name)
    assert told.value == 1
    assert told.p < 1e-6


def test_the_owner_test_keeps_its_level():
    """200 leak-free draws with ties, classes of unequal levels: 20 alarms or more once in 350."""
    rng = np.random.default_rng(0)
    owner, strata = np.repeat(np.arange(4), 25), np.tile(np.arange(5), 20)
    alarms = 0
    for _ in range(200):
        values = {c: rng.integers(4, size=100) + 10.0 * strata for c in range(4)}
        figure = owners_told("AUC", values, owner, strata)
        assert figure is not None
        alarms += figure.p < 0.05
    assert 2 <= alarms < 20


def test_scores_are_never_read_from_the_side(skewed):
    blank = {
        client: replace(upload, scores=torch.full_like(upload.scores, torch.nan))
        for client, upload in skewed.view.sent[1].items()
    }
    assert _run(SideChannels(), skewed.seen(sent={1: blank})).figures == (
        _run(SideChannels(), skewed).figures
    )


@pytest.mark.parametrize("attack", [LabelDistribution(references=3), SideChannels()])
def test_the_rng_alone_decides_and_uploads_are_needed(attack, skewed):
    assert _run(attack, skewed).figures == _run(attack, skewed).figures
    with pytest.raises(NotSeen):
        _run(attack, skewed.seen(blind=True))


def test_two_clients_are_warned_about_and_one_refused():
    pair = world(n_clients=2, each=30, alpha=0.3)
    note = _run(LabelDistribution(references=0), pair).note
    assert "With 2 clients each can subtract" in note
    assert "p cannot fall below 0.25" in note
    alone = replace(pair.truth, label_counts=pair.truth.label_counts[:1])
    assert LabelDistribution().applies(pair.bench, alone).startswith("one client")


def test_a_told_temperature_is_undone():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) * 4
    told = torch.linspace(1, 9, 20)
    sent = Knowledge(
        rows=torch.arange(20),
        scores=torch.softmax(logits / told[:, None], dim=1),
        weights=torch.ones(20),
        space=Space.PROBS,
        temperature=3.0,
        row_temperatures=told,
    )
    assert torch.allclose(untempered(sent), torch.softmax(logits.double(), dim=1), atol=1e-4)


def test_rows_of_rare_classes_weigh_more():
    scores = torch.eye(2)[[0, 0, 0, 1]]
    sent = Knowledge(rows=torch.arange(4), scores=scores, weights=torch.ones(4), space=Space.PROBS)
    weights = row_weights({0: sent})[0]
    assert weights[3] == pytest.approx(3 * weights[0])


def test_guesses_by_hand():
    guesses = {0: np.array([1.0, 0.0]), 1: np.array([0.0, 1.0])}
    found = scored_guesses(guesses, np.array([[5.0, 0.0], [0.0, 5.0]]), smoothing=0.1)
    assert found[0].guessed == pytest.approx((0.95, 0.05))
    assert found[0].kl == pytest.approx(-np.log(0.95))
    assert found[0].kl_prior == pytest.approx(np.log(2))


def test_sign_flips_by_hand():
    rng = np.random.default_rng(0)
    assert better_p(np.array([1.0, 2.0, 3.0]), rng=rng) == 1 / 8
    assert better_p(np.array([-1.0, -2.0]), rng=rng) == 1
    assert better_p(np.zeros(3), rng=rng) == 1
    many = np.random.default_rng(1).normal(1, 1, 30)
    assert better_p(many, rng=rng) < 0.01


def _some(upload: Knowledge, kept: torch.Tensor) -> Knowledge:
    return replace(
        upload,
        rows=upload.rows[kept],
        scores=upload.scores[kept],
        weights=upload.weights[kept],
    )
