"""Canaries' secrets are found where they leak, and not where they were drawn afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from fedkd.audit.attacks.base import attacks
from tests.fedkd.audit.attacks.audited import LEAKY, Audited

ON_CANARIES = ["canary_student", "canary_consensus", "canary_uploads"]


@pytest.fixture(scope="module")
def leaky(simulated):
    return Audited.of(simulated(*LEAKY).path)


def run(audited, name, **settings):
    attack = attacks.get(name)(**settings)
    assert attack.applies(audited.bench, audited.truth) == ""
    rng = np.random.default_rng(1)
    return attack.run(audited.view(attack.adversary), audited.bench, audited.truth, rng=rng)


@pytest.mark.parametrize("name", ON_CANARIES)
def test_it_finds_secrets_of_canaries_that_were_trained_on(leaky, name):
    found = run(leaky, name).extraction
    (level,) = found.levels
    assert (level.n_canaries, level.insertions) == (20, 32)
    assert level.rank_p < 1e-6
    assert level.mean > 2.2
    assert found.bound.epsilon > 1


@pytest.mark.parametrize("name", ON_CANARIES)
def test_it_finds_no_secrets_that_were_drawn_after_the_run(leaky, name):
    p = [run(leaky.with_other_secrets(seed), name).extraction.levels[0].rank_p for seed in range(5)]
    assert min(p) > 0.01 / 5
    assert np.mean(p) > 0.1


def test_secrets_are_told_in_the_order_of_the_canaries(leaky):
    found = run(leaky, "canary_uploads").extraction
    assert found.numbers.tolist() == list(range(20))
    ranked = run(leaky, "canary_student").extraction.exposures.ranks
    assert (ranked >= 1).all()
    assert (ranked <= 10).all()


def test_drawn_references_estimate_what_all_candidates_give(leaky):
    exact = run(leaky, "canary_student").extraction.levels[0]
    drawn = run(leaky, "canary_student", exact_up_to=2, references=400).extraction.levels[0]
    assert drawn.cap == pytest.approx(np.log2(401))
    assert drawn.mean == pytest.approx(exact.mean, abs=0.6)  # ties with its own secret count
    assert drawn.rank_p < 1e-3


def test_an_upload_is_read_where_the_canary_is_a_proxy_row(leaky):
    assert "20 of 20 were read off their own proxy rows" in run(leaky, "canary_uploads").note


def test_it_asks_a_surrogate_where_the_canary_is_in_no_proxy_set(simulated):
    outside = [word.replace("in_proxy: true", "in_proxy: false") for word in LEAKY]
    hidden = Audited.of(simulated(*outside).path)
    for name in ("canary_uploads", "canary_consensus"):
        found = run(hidden, name, passes=3)
        assert "0 of 20 were read off" in found.note
        assert len(found.extraction.exposures.ranks) == 20


def test_it_does_not_apply_without_canaries(simulated):
    plain = Audited.of(simulated("server_model=mlp", "transcript=last").path)
    for name in ON_CANARIES:
        assert "canaries" in attacks.get(name)().applies(plain.bench, plain.truth)
