"""Under DP-SGD a reply holds what the noisy model computed and nothing that tells the examples."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from fedkd_clients.private_data import private_data
from flwr.app import RecordDict

from fedkd.transport.inprocess import InProcessGrid
from fedkd.transport.messages import Action
from fedkd.transport.records import CONTROL, count_bytes

EXPECTED = {"fedmd": {"knowledge", "masks"}, "fedavg": {"update"}}


class Keeping(InProcessGrid):
    """Keeps every reply of a round as it crosses."""

    replies: ClassVar[dict[str, list[RecordDict]]] = {}

    def _deliver(self, message):
        reply = super()._deliver(message)
        if Action(message.metadata.message_type) is Action.ROUND:
            self.replies.setdefault(message.metadata.group_id, []).append(reply.content)
        return reply


@pytest.mark.parametrize("method", EXPECTED)
def test_replies_of_clients_with_many_and_few_examples_look_alike(play, tiny, method):
    Keeping.replies = {}
    scenario = tiny(
        f"method={method}",
        "proxy={name: external, size: 40}",
        "partition=dirichlet",
        "privacy.dp_sgd=true",
        "privacy.noise_multiplier=1.0",
    )
    cpu = torch.device("cpu")
    sizes = {len(private_data(scenario, c, device=cpu).train) for c in range(scenario.clients)}
    assert len(sizes) == scenario.clients, "otherwise a count would tell nothing"
    play(scenario, grid=Keeping)
    assert Keeping.replies.keys() == {"1", "2"}
    for replies in Keeping.replies.values():
        headers = [dict(reply.config_records[CONTROL]) for reply in replies]
        assert [header.pop("client") for header in headers] == list(range(scenario.clients))
        assert all(header == headers[0] for header in headers)
        for reply in replies:
            assert set(reply.array_records) == EXPECTED[method]
            assert set(reply.config_records) == {CONTROL}
            assert not reply.metric_records
        assert all(count_bytes(reply) == count_bytes(replies[0]) for reply in replies)
