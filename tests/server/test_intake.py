"""Updates of a group are looked at in their sum; who sent what is not finite is found anyway."""

from __future__ import annotations

import pytest
import torch
from fedkd_server.intake import UploadIntake

from fedkd.flat import FlatArrays, Layout
from fedkd.transport.messages import Action, Reply, Request
from fedkd.types import Update

LAYOUT = Layout.of([("a", (3,)), ("b", (2, 2))])
SENT = Update(arrays=FlatArrays(torch.zeros(LAYOUT.size), LAYOUT))


def _taken(scenario, vectors, *, keep=False):
    requests = [Request(action=Action.ROUND, client=c, round=1, incoming=SENT) for c in vectors]
    replies = [
        Reply(client=c, upload=Update(arrays=FlatArrays(vector, LAYOUT), weight=2.0 + c))
        for c, vector in vectors.items()
    ]
    return UploadIntake(scenario).take(requests, replies, keep=keep)


def _vectors(n):
    draw = torch.Generator().manual_seed(0)
    return {client: torch.rand(LAYOUT.size, generator=draw) for client in range(n)}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("keep", [False, True])
def test_what_is_not_finite_is_dropped_and_the_others_count(tiny, bad, keep):
    scenario = tiny("method=fedavg", "clients=20", "models=mlp")  # all are of one group
    vectors = _vectors(2)
    vectors[0][4] = bad
    found = _taken(scenario, vectors, keep=keep)
    assert found.failures == [(0, "dropped: numbers that are not finite")]
    assert found.answered == [0, 1]
    alone = _taken(scenario, {1: vectors[1]}, keep=keep)
    assert found.bytes_up["update"] == 2 * alone.bytes_up["update"]
    if keep:
        assert list(found.uploads) == [1]
        return
    (state,), (expected,) = found.states.values(), alone.states.values()
    assert torch.equal(state.settled(), expected.settled())
    assert state.weight == expected.weight


def test_infinities_that_would_cancel_are_found(tiny):
    scenario = tiny("method=fedavg", "clients=20", "models=mlp")
    vectors = _vectors(2)
    vectors[0][1], vectors[1][1] = torch.inf, -torch.inf
    found = _taken(scenario, vectors)
    assert [client for client, _ in found.failures] == [0, 1]
    assert not found.states


def test_finite_numbers_whose_sum_is_not_are_nobody_s_failure(tiny):
    scenario = tiny("method=fedavg", "clients=20", "models=mlp")
    vectors = {client: torch.full((LAYOUT.size,), 3e38) for client in range(2)}
    found = _taken(scenario, vectors)
    assert not found.failures
    assert len(found.states) == 1
