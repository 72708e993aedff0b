"""What every protector promises: the rows stay, and only its own stream changes what it does."""

from __future__ import annotations

import pytest
import torch
from fedkd_server.validation import Expected, check_knowledge

from fedkd.methods.edgefd import EdgeFD
from fedkd.protectors.base import Context, protectors
from fedkd.types import Knowledge, ProxySet, ProxySource, Space

every_protector = pytest.mark.parametrize("name", protectors.names())
N_ROWS, N_CLASSES = 30, 5


def _knowledge() -> Knowledge:
    rng = torch.Generator().manual_seed(1)
    rows = torch.arange(0, N_ROWS, 2)
    return Knowledge(
        rows=rows,
        scores=5 * torch.randn(len(rows), N_CLASSES, generator=rng),
        weights=1 - torch.rand(len(rows), generator=rng),
        space=Space.LOGITS,
    )


def _context() -> Context:
    proxy = ProxySet(
        inputs=torch.zeros(N_ROWS, 4),
        ids=torch.arange(N_ROWS),
        owner=None,
        source=ProxySource.EXTERNAL,
    )
    return Context(proxy=proxy, consensus=None)


def _protect(name, *, seed: int = 0) -> Knowledge:
    rng = torch.Generator().manual_seed(seed)
    return protectors.get(name)().protect(_knowledge(), _context(), rng=rng)


@every_protector
def test_rows_and_weights_are_kept(name):
    before, after = _knowledge(), _protect(name)
    assert torch.equal(before.rows, after.rows)
    assert torch.equal(before.weights, after.weights)
    assert after.scores.shape == before.scores.shape


@every_protector
def test_only_its_own_stream_changes_what_it_does(name, global_seed):
    found = []
    for seed in (0, 1):
        with global_seed(seed):
            before = torch.get_rng_state()
            found.append(_protect(name).scores)
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)


@every_protector
def test_what_it_was_given_stays_as_it_was(name):
    given = _knowledge()
    rng = torch.Generator().manual_seed(0)
    protectors.get(name)().protect(given, _context(), rng=rng)
    assert torch.equal(given.scores, _knowledge().scores)


@every_protector
def test_the_server_accepts_what_leaves(name):
    method = EdgeFD()
    expected = Expected(
        space=method.distiller.space,
        temperature=method.distiller.teacher_temperature,
        n_rows=N_ROWS,
        n_classes=N_CLASSES,
    )
    leaving = method.encode(_protect(name))
    assert check_knowledge(leaving, expected) is leaving


def test_none_changes_no_bit():
    assert torch.equal(_protect("none").scores, _knowledge().scores)
