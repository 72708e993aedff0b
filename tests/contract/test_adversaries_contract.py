"""What every adversary client promises: uploads that pass as sound, and honesty at strength 0."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fedkd_server.validation import Expected, check_knowledge

from fedkd.adversaries.base import (
    Surroundings,
    adversaries,
    members,
    poisoned,
    poisoned_labels,
    stream,
)
from fedkd.types import Consensus, Knowledge, Space

N_ROWS, N_CLASSES, TEMPERATURE = 30, 6, 3.0
every_adversary = pytest.mark.parametrize("name", adversaries.names())
every_space = pytest.mark.parametrize("space", list(Space))


def _rows(share: float, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.nonzero(torch.rand(N_ROWS, generator=rng) < share).flatten()


def _upload(space: Space, *, seed: int = 1) -> Knowledge:
    rows = _rows(0.6, seed)
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(len(rows), N_CLASSES, generator=rng)
    return Knowledge(
        rows=rows,
        scores=logits if space is Space.LOGITS else (logits / TEMPERATURE).softmax(dim=1),
        weights=1 - torch.rand(len(rows), generator=rng),
        space=space,
        temperature=1.0 if space is Space.LOGITS else TEMPERATURE,
    )


def _consensus(space: Space) -> Consensus:
    told = _upload(space, seed=2)
    return Consensus(
        rows=told.rows,
        scores=told.scores,
        space=space,
        temperature=told.temperature,
        keepers=None,
    )


def _around(space: Space, *, first: bool = False, **others) -> Surroundings:
    return Surroundings(
        rows=torch.arange(N_ROWS),
        n_classes=N_CLASSES,
        consensus=None if first else _consensus(space),
        earlier=None if first else _upload(space, seed=3),
        **others,
    )


def _sent(name, upload, around, *, seed: int = 0, **fields) -> Knowledge:
    attack = adversaries.get(name)(**fields)
    return poisoned(attack, upload, around, rng=torch.Generator().manual_seed(seed))


def _same(a: Knowledge, b: Knowledge) -> bool:
    pairs = ((a.rows, b.rows), (a.scores, b.scores), (a.weights, b.weights))
    return all(torch.equal(x, y) for x, y in pairs)


@every_adversary
@every_space
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_what_it_sends_passes_validation(name, space, first, strength):
    upload = _upload(space)
    sent = _sent(name, upload, _around(space, first=first), strength=strength)
    expected = Expected(
        space=space, temperature=upload.temperature, n_rows=N_ROWS, n_classes=N_CLASSES
    )
    assert len(check_knowledge(sent, expected)) == len(sent) > 0


@every_adversary
@every_space
def test_at_strength_0_it_is_honest_bit_by_bit(name, space):
    upload = _upload(space)
    assert _sent(name, upload, _around(space), strength=0.0) is upload
    labels = torch.arange(50) % N_CLASSES
    attack = adversaries.get(name)(strength=0.0)
    rng = torch.Generator().manual_seed(0)
    assert poisoned_labels(attack, labels, n_classes=N_CLASSES, rng=rng) is labels


@every_adversary
@every_space
def test_at_full_strength_something_is_poisoned_and_the_upload_is_left_alone(name, space):
    upload, attack = _upload(space), adversaries.get(name)()
    before = [part.clone() for part in (upload.rows, upload.scores, upload.weights)]
    sent = _sent(name, upload, _around(space))
    labels = torch.arange(50) % N_CLASSES
    rng = torch.Generator().manual_seed(0)
    flipped = poisoned_labels(attack, labels, n_classes=N_CLASSES, rng=rng)
    assert not _same(sent, upload) or not torch.equal(flipped, labels)
    after = (upload.rows, upload.scores, upload.weights)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(labels, torch.arange(50) % N_CLASSES)


@every_adversary
def test_its_numbers_come_from_the_given_stream_alone(name, global_seed):
    found = []
    for seed in (0, 1):
        with global_seed(seed):
            found.append(_sent(name, _upload(Space.PROBS), _around(Space.PROBS), strength=0.5))
    assert _same(*found)


@every_adversary
def test_it_speaks_about_rows_that_were_asked_alone(name):
    asked = _rows(0.5, 9)
    around = dataclasses.replace(_around(Space.PROBS), rows=asked)
    upload = _upload(Space.PROBS)
    mine = torch.isin(upload.rows, asked)
    upload = dataclasses.replace(
        upload, rows=upload.rows[mine], scores=upload.scores[mine], weights=upload.weights[mine]
    )
    for strength in (0.5, 1.0):
        assert set(_sent(name, upload, around, strength=strength).rows.tolist()) <= set(
            asked.tolist()
        )


@every_adversary
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_it_tells_temperatures_row_by_row_where_they_must_be_told(name, strength):
    around = _around(Space.PROBS, row_temperatures=(2.0, 8.0))
    sent = _sent(name, _upload(Space.PROBS), around, strength=strength)
    assert sent.row_temperatures is not None
    assert sent.row_temperatures.tolist() == [2.0] * len(sent)
    expected = Expected(
        space=Space.PROBS,
        temperature=TEMPERATURE,
        n_rows=N_ROWS,
        n_classes=N_CLASSES,
        row_temperatures=(2.0, 8.0),
    )
    check_knowledge(sent, expected)


@every_adversary
def test_the_last_ids_are_the_adversaries_unless_they_are_named(name):
    cls = adversaries.get(name)
    assert members(cls(), n_clients=10) == {9}
    assert members(cls(clients=3), n_clients=10) == {7, 8, 9}
    assert members(cls(clients=(0, 4)), n_clients=10) == {0, 4}
    assert members(cls(clients=0), n_clients=10) == frozenset()
    assert members(None, n_clients=10) == frozenset()


@every_adversary
def test_colluders_alone_share_their_numbers(name):
    attack = adversaries.get(name)()
    drawn = [
        torch.rand(1, generator=stream(attack, 0, "upload", round=n, client=client)).item()
        for n, client in ((1, 8), (1, 9), (2, 8))
    ]
    assert len(set(drawn)) == (1 if attack.colludes else 3)
