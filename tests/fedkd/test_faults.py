"""Faults: what they do to one upload, what they refuse, and that they are drawn as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkd.errors import ConfigError
from fedkd.faults.absence import ClientCrashed, turn_up
from fedkd.faults.channel import MOST_BYTES_CHANGED, Channel, corrupt
from fedkd.faults.settings import Faults, Straggle
from fedkd.scenario import from_json, to_json
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.records import bytes_of_reply
from fedkd.types import Knowledge, Space

CLIENTS = 400


def _asked(round: int, n: int = CLIENTS) -> list[Request]:
    return [Request(action=Action.ROUND, client=client, round=round) for client in range(n)]


def _said(round: int, n: int = CLIENTS) -> list[Reply]:
    upload = Knowledge(
        rows=torch.arange(4),
        scores=torch.full((4, 3), 1 / 3),
        weights=torch.full((4,), round / 100),
        space=Space.PROBS,
    )
    return [Reply(client=client, upload=upload) for client in range(n)]


@pytest.fixture
def carried(tiny):
    """Carry the uploads of rounds 1, 2, ... and return what arrived in each."""

    def carry(faults: str, *, rounds: int = 1, seed: int = 0):
        channel = Channel(tiny(f"clients={CLIENTS}", f"faults={faults}", f"seed={seed}"))
        return [channel.carry(_asked(n), _said(n)) for n in range(1, rounds + 1)]

    return carry


def _counts(arrived) -> list[int]:
    return np.bincount([d.client for d in arrived], minlength=CLIENTS).tolist()


@pytest.mark.parametrize(("fault", "hit"), [("drop", 0), ("duplicate", 2)])
def test_as_many_uploads_are_hit_as_the_share_says_and_others_in_every_round(carried, fault, hit):
    first, second = (_counts(a) for a in carried(f"{{{fault}: 0.2}}", rounds=2))
    hits = [[n == hit for n in counts] for counts in (first, second)]
    assert set(first) == {1, hit}
    assert all(50 < sum(one) < 110 for one in hits)  # 80 +- 8; beyond 3 sd once in 400 seeds
    assert hits[0] != hits[1]


def test_no_share_is_no_fault_and_the_whole_is_every_upload(carried):
    assert _counts(carried("{drop: 0}")[0]) == [1] * CLIENTS
    assert carried("{drop: 1}")[0] == []
    assert _counts(carried("{duplicate: 1}")[0]) == [2] * CLIENTS


def test_what_is_drawn_for_one_fault_does_not_move_another(carried):
    alone = _counts(carried("{drop: 0.3}")[0])
    beside = {d.client for d in carried("{drop: 0.3, duplicate: 0.5, delay_s: [0, 2]}")[0]}
    assert [n > 0 for n in alone] == [client in beside for client in range(CLIENTS)]


def test_a_replay_is_the_upload_of_the_round_before_with_its_token(carried):
    first, second = carried("{replay: 1}", rounds=2)
    assert [d.round for d in first] == [1] * CLIENTS
    old = [d for d in second if d.round == 1]
    assert sorted(d.client for d in old) == list(range(CLIENTS))
    assert float(old[0].reply.upload.weights[0]) == pytest.approx(0.01)
    new = [d for d in second if d.round == 2]
    assert float(new[0].reply.upload.weights[0]) == pytest.approx(0.02)


def test_delays_lie_in_their_interval_and_order_the_arrivals(carried):
    (arrived,) = carried("{delay_s: [1, 3]}")
    seconds = [d.seconds for d in arrived]
    assert 1 <= min(seconds) < 1.1
    assert 2.9 < max(seconds) <= 3
    assert seconds == sorted(seconds)
    assert [d.client for d in arrived] != list(range(CLIENTS))


def test_stragglers_are_the_same_clients_in_every_round(carried):
    first, second = carried("{delay_s: [1, 1], straggle: {share: 0.25, factor: 8}}", rounds=2)
    slow = {d.client for d in first if d.seconds == 8}
    assert 65 < len(slow) < 135  # 100 +- 9
    assert slow == {d.client for d in second if d.seconds == 8}
    assert {d.seconds for d in first} == {1, 8}


def test_reordering_loses_and_adds_nothing(carried):
    (arrived,) = carried("{reorder: true}")
    assert [d.client for d in arrived] != list(range(CLIENTS))
    assert _counts(arrived) == [1] * CLIENTS


def test_truncated_bytes_are_unreadable_or_lack_something(carried):
    (arrived,) = carried("{truncate: 1}")
    broken = [d for d in arrived if d.reply.error]
    assert len(broken) > 0.9 * CLIENTS
    assert all(d.reply.error.startswith("unreadable reply (") for d in broken)
    assert len(arrived) == CLIENTS


def test_corruption_changes_a_few_bytes_and_no_more():
    data = bytes_of_reply(_said(1, n=1)[0])
    for n in range(200):
        damaged = corrupt(data, rng=np.random.default_rng(n))
        differing = sum(a != b for a, b in zip(data, damaged, strict=True))
        assert 1 <= differing <= MOST_BYTES_CHANGED
    assert corrupt(b"", rng=np.random.default_rng(0)) == b""
    assert corrupt(b"x", rng=np.random.default_rng(0)) != b"x"


def test_an_error_is_told_whatever_the_channel_does(tiny):
    channel = Channel(tiny("faults={drop: 1, corrupt: 1}"))
    failed = Reply(client=0, error="MemoryError")
    (delivery,) = channel.carry(_asked(1, 1), [failed])
    assert delivery.reply is failed


def test_the_crash_hits_its_client_and_round_only(tiny):
    scenario = tiny("faults={crash: {client: 1, round: 2}}")
    with pytest.raises(ClientCrashed, match="client 1 in round 2"):
        turn_up(scenario, client=1, round=2)
    for client, n_round in ((1, 1), (0, 2)):
        turn_up(scenario, client=client, round=n_round)
    turn_up(tiny(), client=1, round=2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["faults={drop: 1.5}"], "faults.drop: 1.5"),
        (["faults={delay_s: [2, 1]}"], r"faults: delay_s: \[2.0, 1.0\]"),
        (["faults={delay_s: [0, .inf]}"], "delay_s"),
        (["faults={lose: 0.1}"], "faults.lose: unknown key"),
        (["faults={straggle: {factor: 0.5}}"], "faults.straggle.factor: 0.5"),
        (["faults={crash: {client: 3}}"], "faults.crash.client: 3, but clients=3"),
        (["faults={crash: {round: 9}}"], "faults.crash.round: 9 .* rounds=2"),
        (["faults={drop: 0.1}", "server_view=sums", "proxy=external"], "faults: of masked sums"),
        (["quorum=4"], "quorum: 4 uploads of a cohort of 3; give 3"),
        (["quorum=3", "cohort=2"], "quorum: 3 uploads of a cohort of 2"),
        (["deadline_s=0"], "deadline_s: 0"),
        (["late_policy=next_round"], "late_policy: next_round, but nothing is late"),
        (["late_policy=tomorrow"], "late_policy: 'tomorrow'"),
        (
            ["late_policy=next_round", "deadline_s=1", "server_view=sums", "proxy=external"],
            "a masked upload fits",
        ),
        (
            [
                "late_policy=next_round",
                "deadline_s=1",
                "method={name: fedmd, aggregator: {name: noisy_mean, noise_multiplier: 1}}",
            ],
            "'noisy_mean' that its client was not charged for",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(tiny, overrides, message):
    with pytest.raises(ConfigError, match=message):
        tiny(*overrides)


def test_a_crash_goes_with_masked_sums(tiny):
    assert tiny("faults={crash: {client: 1}}", "server_view=sums", "proxy=external").faults


def test_faults_survive_the_way_through_json(tiny):
    text = "faults={drop: 0.1, delay_s: [0, 2], crash: {client: 1, round: 2}, straggle: {share: 1}}"
    scenario = tiny(text, "deadline_s=3", "late_policy=next_round", "quorum=2")
    assert from_json(to_json(scenario)) == scenario
    assert scenario.faults == replace(
        Faults(drop=0.1, delay_s=(0, 2), straggle=Straggle(share=1)), crash=scenario.faults.crash
    )
