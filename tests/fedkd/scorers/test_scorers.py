"""Each scorer's formula, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from fedkd_clients.learner import FleetLearner
from fedkd_clients.store import MemoryStore

from fedkd.data.characters import ALPHABET
from fedkd.errors import ConfigError
from fedkd.protectors.base import Context
from fedkd.scorers.confidence import Confidence
from fedkd.scorers.density import CHUNK, Density, closeness
from fedkd.scorers.detector import Detector
from fedkd.scorers.peer_gap import PeerGap
from fedkd.scorers.reference_ratio import ReferenceRatio
from fedkd.types import Consensus, Knowledge, ProxySet, ProxySource, Space


def _knowledge(probabilities, *, temperature: float = 1.0, rows=None) -> Knowledge:
    scores = temperature * torch.tensor(probabilities).log()
    n = len(scores)
    return Knowledge(
        rows=torch.arange(n) if rows is None else torch.tensor(rows),
        scores=scores,
        weights=torch.ones(n),
        space=Space.LOGITS,
    )


def _proxy(n: int) -> ProxySet:
    return ProxySet(
        inputs=torch.zeros(n, 2), ids=torch.arange(n), owner=None, source=ProxySource.EXTERNAL
    )


def _context(probabilities=None, *, rows=None, temperature: float = 1.0, near=None) -> Context:
    consensus = None
    if probabilities is not None:
        scores = torch.tensor(probabilities)
        consensus = Consensus(
            rows=torch.arange(len(scores)) if rows is None else torch.tensor(rows),
            scores=scores,
            space=Space.PROBS,
            temperature=temperature,
            keepers=None,
        )
    return Context(proxy=_proxy(9), consensus=consensus, closeness=near)


def test_confidence_is_zero_when_undecided_and_one_when_sure():
    given = _knowledge([[0.25] * 4, [0.625, 0.125, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]])
    found = Confidence().likelihood(given, _context())
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 1.0]))


def test_peer_gap_is_the_squashed_divergence_at_the_temperature_of_the_consensus():
    own, peers = [[0.5, 0.5], [0.75, 0.25]], [[0.5, 0.5], [0.5, 0.5]]
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for temperature in (1.0, 3.0):
        found = PeerGap(scale=2.0).likelihood(
            _knowledge(own, temperature=temperature), _context(peers, temperature=temperature)
        )
        expected = torch.tensor([0.0, 1 - math.exp(-divergence / 2)])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scorer", [PeerGap, ReferenceRatio])
def test_what_cannot_be_judged_is_protected_most_unless_told_otherwise(scorer):
    given = _knowledge([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], rows=[0, 3, 4])
    some = _context([[0.9, 0.1], [0.6, 0.4]], rows=[3, 4])
    assert scorer().likelihood(given, _context()).tolist() == [1.0, 1.0, 1.0]
    assert scorer(unknown=0.0).likelihood(given, _context()).tolist() == [0.0, 0.0, 0.0]
    assert scorer().likelihood(given, some)[0] == 1
    assert bool((scorer().likelihood(given, some)[1:] < 1e-6).all()) == (scorer is PeerGap)
    assert scorer(unknown=0.25).likelihood(given, some)[0] == 0.25


def test_reference_ratio_ranks_what_the_client_is_surer_of_than_others():
    own = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]
    peers = [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.7, 0.3]]
    # With a = 1 the ratios are 1, 2, 1.5 and 7/3.
    plain = ReferenceRatio(a=1.0).likelihood(_knowledge(own), _context(peers))
    torch.testing.assert_close(plain, torch.tensor([0.0, 2 / 3, 1 / 3, 1.0]))
    # 7/3 is more than 1.3 times each of 1 and 1.5; 2 more than that of 1 and 1.5; 1.5 that of 1.
    strict = ReferenceRatio(a=1.0, gamma=1.3).likelihood(_knowledge(own), _context(peers))
    torch.testing.assert_close(strict, torch.tensor([0.0, 2 / 3, 1 / 3, 2 / 3]))
    # With a = 0 the reference is (q + 1) / 2: .9/.95, .8/.7, .6/.7, .7/.65.
    half = ReferenceRatio(a=0.0).likelihood(_knowledge(own), _context(peers))
    torch.testing.assert_close(half, torch.tensor([1 / 3, 1.0, 0.0, 2 / 3]))


def test_reference_ratio_of_one_judged_row_has_no_rank():
    given = _knowledge([[0.9, 0.1], [0.8, 0.2]])
    found = ReferenceRatio(unknown=0.75).likelihood(given, _context([[0.5, 0.5]], rows=[1]))
    assert found.tolist() == [0.75, 0.75]


def test_detector_adds_up_what_lies_on_its_classes():
    given = _knowledge([[0.5, 0.25, 0.25], [0.125, 0.0, 0.875]])
    found = Detector(classes=(2, 0, 2)).likelihood(given, _context())
    torch.testing.assert_close(found, torch.tensor([0.75, 1.0]))
    with pytest.raises(ConfigError, match=r"classes: 3 is looked for among 3 classes; the .* 2"):
        Detector(classes=(3,)).likelihood(given, _context())


def test_a_sharp_detector_leaves_the_unsure_alone():
    given = _knowledge([[0.5, 0.25, 0.25], [0.1, 0.0, 0.9]])
    found = Detector(classes=(2,), sharpness=3).likelihood(given, _context())
    torch.testing.assert_close(found, torch.tensor([0.25, 0.9]) ** 3)


def test_detector_knows_the_characters_of_a_text():
    likely = torch.full((2, len(ALPHABET)), 1e-6)
    likely[0, ALPHABET.index("7")], likely[1, ALPHABET.index("e")] = 1.0, 1.0
    given = _knowledge(likely.tolist())
    by_name = Detector(symbols="0123456789#").likelihood(given, _context())
    numbers = tuple(ALPHABET.index(character) for character in "0123456789#")
    assert torch.equal(by_name, Detector(classes=numbers).likelihood(given, _context()))
    assert by_name[0] > 0.99
    assert by_name[1] < 0.01
    with pytest.raises(ConfigError, match="symbols: '%' is not in the alphabet"):
        Detector(symbols="5%")
    with pytest.raises(ConfigError, match=r"symbols: '7' .* there are 3 classes"):
        Detector(symbols="7").likelihood(_knowledge([[0.5, 0.25, 0.25]]), _context())


def test_density_looks_rows_up():
    near = torch.tensor([0.0, 0.25, 0.5, 1.0])
    found = Density().likelihood(
        _knowledge([[0.5, 0.5]] * 2, rows=[1, 3]), _context(near=lambda: near)
    )
    assert found.tolist() == [0.25, 1.0]


def test_closeness_halves_with_every_typical_distance():
    private = torch.arange(5.0)[:, None].repeat(1, 2) * torch.tensor([3.0, 4.0])  # 5 apart
    proxy = torch.tensor([[6.0, 8.0], [-3.0, -4.0], [12.0, 21.0], [3000.0, 0.0]])
    found = closeness(private, proxy)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 0.5, 0.0]))
    assert found[0] == 1


def test_closeness_is_the_same_in_parts_and_needs_two_examples():
    rng = torch.Generator().manual_seed(0)
    private, proxy = torch.randn(50, 3, generator=rng), torch.randn(CHUNK + 7, 3, generator=rng)
    at_once, alone = closeness(private, proxy), closeness(private, proxy[-1:])
    torch.testing.assert_close(at_once[-1:], alone)
    assert closeness(private[:1], proxy[:3]).tolist() == [1.0] * 3
    assert closeness(private[:0], proxy[:3]).tolist() == [1.0] * 3
    assert closeness(private[:1].repeat(4, 1), private[:1]).tolist() == [1.0]


def test_a_learner_finds_its_own_examples_close_and_others_less(tiny):
    scenario = tiny("partition=pathological")
    learner = FleetLearner(scenario, MemoryStore(), device=torch.device("cpu"))
    mine, other = learner.private(0).train.inputs[:40], learner.private(1).train.inputs[:40]
    inputs = torch.cat([mine, other])
    proxy = ProxySet(inputs=inputs, ids=torch.arange(80), owner=None, source=ProxySource.EXTERNAL)
    learner.state(0).proxy = proxy
    found = learner.closeness(0)
    assert found.shape == (80,)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:40], torch.ones(40), rtol=0, atol=1e-3)
    assert float(found[40:].max()) < 0.9
