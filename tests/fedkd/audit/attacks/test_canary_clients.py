"""Canary clients: found in a plain mean, and never beyond what the noise allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkd.aggregators.noisy_mean import NoisyMean
from fedkd.audit.attacks.canary_clients import CanaryClients, cosines
from fedkd.audit.bounds import Relation
from fedkd.audit.findings import Result
from fedkd.audit.gaussian import gaussian_epsilon
from fedkd.audit.views import NotSeen
from fedkd.methods.edgefd import EdgeFD
from fedkd.types import Consensus, Space
from tests.fedkd.audit.attacks.views import World, world


def _run(on: World, seed: int = 0, canaries: int = 100) -> Result:
    attack = CanaryClients(canaries=canaries, numbers=1000)
    assert attack.applies(on.bench, on.truth) == ""
    return attack.run(on.view, on.bench, on.truth, rng=np.random.default_rng(seed))


def _noisy(on: World, multiplier: float) -> World:
    method = on.scenario.method
    assert isinstance(method, EdgeFD)
    noisy = replace(method, aggregator=NoisyMean(noise_multiplier=multiplier))
    return replace(on, bench=replace(on.bench, scenario=replace(on.scenario, method=noisy)))


@pytest.fixture(scope="module")
def plain() -> World:
    return world(n_clients=3, each=40)


def test_a_plain_mean_hides_nobody(plain):
    found = _run(plain)
    assert found.bound.relation is Relation.REPLACE
    assert found.bound.delta == plain.scenario.privacy.delta
    assert found.bound.epsilon > 0.6 * found.bound.ceiling > 1
    auc, share, cosine, gaussian = found.figures
    assert auc.value > 0.95
    assert share.value > 0.8
    assert cosine.p < 1e-6
    assert gaussian.value > found.bound.epsilon, "a smaller family, a larger bound"
    assert "Replayed aggregation" in found.note
    assert "over 100 rows" in found.note


def test_more_canaries_raise_the_ceiling(plain):
    few, many = _run(plain, canaries=20).bound, _run(plain, canaries=100).bound
    assert few.ceiling < 1.5 < many.ceiling


@pytest.mark.parametrize(("multiplier", "most"), [(0.5, 20), (2.0, 10)])
def test_the_bound_stays_below_the_epsilon_of_the_noise(plain, multiplier, most):
    """Twenty replays; at 95 % confidence four or more violations happen once in 60.

    The bound is no empty one: it is above 0 in some replays, in the fewer the more noise there is.
    """
    noisy = _noisy(plain, multiplier)
    true = gaussian_epsilon(1 / multiplier, delta=noisy.scenario.privacy.delta)
    replays = [_run(noisy, seed, canaries=200) for seed in range(20)]
    found = [one.bound.epsilon for one in replays]
    assert sum(epsilon > true for epsilon in found) < 4
    assert 0 < sum(epsilon > 0 for epsilon in found) <= most
    assert sum(one.figures[3].value > true for one in replays) < 4


def test_much_noise_hides_everybody(plain):
    noisy = _noisy(plain, 50.0)
    found = [_run(noisy, seed) for seed in range(20)]
    assert sum(one.bound.epsilon > 0 for one in found) < 4
    assert sum(one.figures[2].p < 0.05 for one in found) < 4


def test_votes_are_replayed_as_votes():
    quiet = "method.aggregator.noise_multiplier=0.001"
    found = _run(world("method=gnmax", quiet, n_clients=3, each=40))
    assert found.bound.epsilon > 0


@pytest.mark.parametrize("protector", ["swing", "gaussian"])
def test_the_protector_of_the_run_is_on_the_way(protector, plain):
    overrides = [f"protector={protector}"]
    if protector == "gaussian":
        overrides.append("protector.noise_multiplier=5")
    protected = world(*overrides, n_clients=3, each=40)
    quiet, loud = (_run(one).figures[2].value for one in (protected, plain))
    assert quiet < loud


def test_of_masked_sums_only_the_consensus_is_read(plain):
    masked = world("server_view=sums", n_clients=3, each=40).seen(blind=True)
    found = _run(masked)
    assert "3 copies of the consensus" in found.note
    assert found.bound.epsilon > 1


def test_uploads_are_needed_where_there_are_any(plain):
    with pytest.raises(NotSeen):
        _run(plain.seen(blind=True))
    with pytest.raises(NotSeen):
        _run(plain.seen(answered={}))


def test_the_rng_alone_decides(plain):
    assert _run(plain, 1).figures == _run(plain, 1).figures
    assert _run(plain, 1).figures != _run(plain, 2).figures


def test_two_clients_are_warned_about():
    assert "With 2 clients" in _run(world(n_clients=2, each=30)).note


def test_the_null_has_the_variance_it_is_said_to_have():
    rng = np.random.default_rng(0)
    patterns = torch.from_numpy(rng.integers(7, size=(4000, 30)))
    scores = torch.softmax(torch.from_numpy(rng.normal(size=(25, 7))), dim=1)
    consensus = Consensus(
        rows=torch.arange(5, 30),
        scores=scores.float(),
        space=Space.PROBS,
        temperature=1.0,
        keepers=None,
    )
    found = cosines(patterns, consensus) * np.sqrt(25 * 6)
    assert abs(found.mean()) < 4 / np.sqrt(4000)
    assert found.std() == pytest.approx(1, abs=0.05)
    exact = torch.nn.functional.one_hot(patterns[:1, 5:], 7).double() - 1 / 7
    centered = scores - 1 / 7
    cosine = (exact[0] * centered).sum() / exact.norm() / centered.norm()
    assert cosines(patterns[:1], consensus)[0] == pytest.approx(float(cosine), abs=1e-6)
