"""Membership from uploads alone: found on clients that memorized, not on records nobody saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedkd.audit.attacks.base import Attack
from fedkd.audit.attacks.coop_lira import CoopLira
from fedkd.audit.attacks.distillation_lira import DistillationLira
from fedkd.audit.findings import Membership, Result
from fedkd.audit.views import NotSeen
from fedkd.compose import compose
from fedkd.tasks import NextToken
from tests.fedkd.audit.attacks.views import WRONG, World, world

DISTILLED = DistillationLira(clients=2, references=2, passes=15)
COOP = CoopLira(passes=15)
both = pytest.mark.parametrize("attack", [DISTILLED, COOP], ids=["distillation", "co-op"])


def _run(attack: Attack, on: World, seed: int = 0) -> Result:
    assert attack.applies(on.bench, on.truth) == ""
    return attack.run(on.view, on.bench, on.truth, rng=np.random.default_rng(seed))


def _found(attack: Attack, on: World, seed: int = 0) -> Membership:
    found = _run(attack, on, seed).membership
    assert found is not None
    return found


@pytest.fixture(scope="module")
def memorized() -> World:
    """Four clients that know the wrong labels of their own examples by heart."""
    return world(n_clients=4, wrong=WRONG)


@both
def test_members_are_found_though_they_were_never_asked_about(attack, memorized):
    found = _found(attack, memorized)
    assert found.auc.interval.low > 0.65
    assert found.bound.epsilon > 0


QUICK = (replace(DISTILLED, passes=5, train_passes=3), replace(COOP, passes=5))


@pytest.mark.parametrize("attack", QUICK, ids=["distillation", "co-op"])
def test_records_that_nobody_trained_on_are_not_found(attack, memorized):
    """Ten looks at leak-free pairs: an interval misses 0.5 in one of twenty.

    Three of ten or more happen with probability 0.012; an epsilon above 0 in any, far less.
    """
    control = memorized.of_others()
    found = [_found(attack, control, seed) for seed in range(10)]
    missed = [not f.auc.interval.low <= 0.5 <= f.auc.interval.high for f in found]
    assert sum(missed) < 3
    assert sum(f.bound.epsilon > 0 for f in found) == 0


@both
def test_masked_uploads_tell_nothing(attack, memorized):
    found = _found(attack, memorized.masked())
    assert found.auc.interval.low <= 0.5 <= found.auc.interval.high
    assert found.bound.epsilon == 0


@both
def test_the_rng_alone_decides(attack, memorized):
    one, same = _found(attack, memorized, 3), _found(attack, memorized, 3)
    assert one.auc == same.auc
    assert one.bound == same.bound
    assert one.auc != _found(attack, memorized, 4).auc


@both
def test_without_uploads_nothing_was_seen(attack, memorized):
    with pytest.raises(NotSeen):
        _run(attack, memorized.seen(blind=True))


def test_logits_are_copied_as_well():
    found = _found(DISTILLED, world("method=fedmd", n_clients=2, wrong=WRONG))
    assert found.auc.interval.low > 0.6


def test_the_notes_say_what_is_thin(memorized):
    assert "pooled, for 3 other copies are too few" in _run(COOP, memorized).note
    assert "2 clients" not in _run(DISTILLED, memorized).note
    pair = world(n_clients=2, each=30)
    assert "With 2 clients each can subtract its own upload" in _run(DISTILLED, pair).note
    assert COOP.applies(pair.bench, pair.truth).startswith("2 clients")


def test_texts_and_silent_methods_are_refused(memorized):
    silent = compose(["data=digits", "models=mlp", "clients=4", "method=local"])
    bench, truth = memorized.bench, memorized.truth
    assert "no knowledge" in DISTILLED.applies(replace(bench, scenario=silent), truth)
    texts = replace(bench, task=NextToken(10, 5))
    assert "inputs are sequences" in DISTILLED.applies(texts, truth)
