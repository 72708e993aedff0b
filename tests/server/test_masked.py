"""The server's side of masked sums: dropouts, rows that too few kept, clients that misbehave."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from fedkd_clients.app import fleet_in_memory
from flwr.app import ConfigRecord
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from fedkd.errors import ConfigError, RunStopped
from fedkd.privacy.masked_sums import added
from fedkd.transport.inprocess import InProcessGrid
from fedkd.transport.messages import Action, Keys, Reply, Request, Roll
from fedkd.transport.records import (
    RecordError,
    count_bytes,
    read_reply,
    read_request,
    reply_records,
    request_records,
)

SUMS = ("server_view=sums", "n_min=2", "clients=4", "min_completion=0.4")


class SilenceError(RuntimeError):
    """A client that answers no more."""


class Spoilt:
    """A real fleet whose clients misbehave where ``spoil`` says so."""

    def __init__(self, scenario, spoil) -> None:
        self.fleet, self.spoil = fleet_in_memory(scenario), spoil

    def handle(self, requests):
        replies = self.fleet.handle(requests)
        return [self.spoil(q, r) for q, r in zip(requests, replies, strict=True)]


class Recording(InProcessGrid):
    """Notes every request and reply as it crosses; cleared by each test's ``recorded``."""

    log: ClassVar[list[tuple[Request, Reply | str]]] = []

    def _deliver(self, message):
        reply = super()._deliver(message)
        action, client = Action(message.metadata.message_type), message.metadata.dst_node_id - 1
        request = read_request(message.content, action=action, client=client)
        said = reply.error.reason if reply.has_error() else read_reply(reply.content)
        self.log.append((request, said))
        return reply


@pytest.fixture
def recorded(play, tiny):
    """Play a tiny run of four clients with masked sums; return results and all that crossed."""

    def run(*overrides, spoil=lambda request, reply: reply):
        Recording.log = []
        scenario = tiny(*SUMS, *overrides)
        fleet = Spoilt(scenario, spoil)
        results = play(scenario, fleet_for=lambda _: fleet, grid=Recording)
        return results, list(Recording.log)

    return run


def _falls_silent(*where: tuple[int, Action]):
    """Return a spoiler: client ``c`` raises from its ``action`` in round 1 on."""

    def spoil(request: Request, reply: Reply) -> Reply:
        for client, action in where:
            if request.client == client and request.action is action:
                raise SilenceError
        return reply

    return spoil


def _asked(log) -> list[tuple[str, tuple[int, ...], int]]:
    """Return each exchange of the protocol once: what, among whom, which attempt."""
    steps = [
        (request.action.name, request.roll.members, request.roll.attempt)
        for request, _ in log
        if request.roll is not None
    ]
    return list(dict.fromkeys(steps))


def test_a_round_is_two_exchanges_after_one_for_keys(recorded):
    results, log = recorded("rounds=2")
    actions = Counter(request.action for request, _ in log)
    expected = {Action.KEYS: 4, Action.ROUND: 8, Action.SCORES: 8, Action.COUNTS: 0}
    assert {action: actions[action] for action in expected} == expected
    keyed = [(q.action, q.round) for q, _ in log if q.keys is not None]
    assert keyed == [(Action.ROUND, 1)] * 4, "keys are relayed once to each client"
    everybody = (0, 1, 2, 3)
    assert _asked(log) == [("ROUND", everybody, 1), ("SCORES", everybody, 1)]
    assert [r.failures for r in results] == [[], [], []]


def test_no_reply_carries_an_upload(recorded):
    _, log = recorded("rounds=2")
    replies = [said for _, said in log if isinstance(said, Reply)]
    assert len(replies) > 20
    assert all(reply.upload is None for reply in replies)


def test_only_rows_with_enough_keepers_are_announced_and_come_back(recorded):
    results, log = recorded("rounds=2", "n_min=3")
    counts = added(r.masked.numpy() for q, r in log if (q.action, q.round) == (Action.ROUND, 1))
    (rows,) = {
        tuple(q.roll.rows.tolist()) for q, _ in log if (q.action, q.round) == (Action.SCORES, 1)
    }
    assert rows == tuple(np.flatnonzero(counts >= 3).tolist())
    assert {1, 2} <= set(counts.tolist()), "there are rows to refuse"
    teachers = [q.incoming for q, _ in log if (q.action, q.round) == (Action.ROUND, 2)]
    assert all(tuple(t.rows.tolist()) == rows for t in teachers)
    figures = {m.name: m.value for m in results[1].measurements}
    assert figures["rows_withheld"] == np.count_nonzero((counts > 0) & (counts < 3))
    assert figures["attempts"] == 1
    assert figures["coverage"] == len(rows) / len(counts)


@pytest.mark.parametrize(
    ("where", "steps"),
    [
        ([(1, Action.ROUND)], ["ROUND", "COUNTS", "SCORES"]),
        ([(1, Action.SCORES)], ["ROUND", "SCORES", "COUNTS", "SCORES"]),
        ([(1, Action.ROUND), (2, Action.COUNTS)], ["ROUND", "COUNTS", "COUNTS", "SCORES"]),
        (
            [(1, Action.SCORES), (2, Action.COUNTS)],
            ["ROUND", "SCORES", "COUNTS", "COUNTS", "SCORES"],
        ),
        ([(1, Action.ROUND), (2, Action.ROUND)], ["ROUND", "COUNTS", "SCORES"]),
    ],
)
def test_a_silent_client_is_dropped_and_the_others_begin_again(recorded, where, steps):
    results, log = recorded("rounds=1", spoil=_falls_silent(*where))
    asked = _asked(log)
    assert [name for name, _, _ in asked] == steps
    gone = {client for client, _ in where}
    assert asked[-1][1] == tuple(sorted({0, 1, 2, 3} - gone))
    attempts = [attempt for _, _, attempt in asked]
    assert attempts == sorted(attempts)
    assert [(f.client, f.reason) for f in results[1].failures] == [
        (client, "SilenceError") for client in sorted(gone)
    ]
    figures = {m.name: m.value for m in results[1].measurements}
    assert figures["attempts"] == attempts[-1] > 1
    assert figures["coverage"] > 0


def test_the_silent_clients_upload_is_not_in_the_consensus(recorded):
    # Falling silent before anything was summed or between the phases comes to the same.
    early, _ = recorded("rounds=1", spoil=_falls_silent((1, Action.ROUND)))
    late, _ = recorded("rounds=1", spoil=_falls_silent((1, Action.SCORES)))
    with_it, _ = recorded("rounds=1")
    assert early[1].digest == late[1].digest != with_it[1].digest


def test_no_mask_serves_twice(recorded):
    _, log = recorded("rounds=2", spoil=_falls_silent((3, Action.SCORES)))
    words = [
        r.masked.flatten()[:8].tolist()
        for _, r in log
        if isinstance(r, Reply) and r.masked is not None
    ]
    assert len(words) > 12
    assert len({tuple(some) for some in words}) == len(words)


def test_with_too_few_left_the_run_stops_and_says_why(recorded):
    spoil = _falls_silent((0, Action.ROUND), (1, Action.SCORES), (2, Action.COUNTS))
    with pytest.raises(RunStopped) as error:
        recorded("rounds=1", spoil=spoil)
    text = str(error.value)
    assert text.startswith("round 1: 1 clients are too few for masked sums with n_min=2")
    assert "client 1: SilenceError" in text


def test_min_completion_counts_clients_that_fell_silent_late(recorded):
    with pytest.raises(RunStopped, match="only 3 of 4 clients completed"):
        recorded("rounds=1", "min_completion=1", spoil=_falls_silent((1, Action.SCORES)))


def test_when_no_row_has_enough_keepers_nothing_is_asked_and_nothing_comes_back(recorded):
    results, log = recorded("rounds=2", "method.filter=own_only")
    assert {q.action for q, _ in log} & {Action.SCORES, Action.COUNTS} == set()
    figures = {m.name: m.value for m in results[1].measurements}
    assert figures["coverage"] == 0
    assert figures["rows_withheld"] > 0
    assert [r.failures for r in results] == [[], [], []]


# Clients that do not do as they should.


def _with_words(*, action: Action, change):
    def spoil(request: Request, reply: Reply) -> Reply:
        if (request.client, request.action) == (2, action):
            return replace(reply, masked=change(reply.masked))
        return reply

    return spoil


@pytest.mark.parametrize("action", [Action.ROUND, Action.SCORES])
@pytest.mark.parametrize(
    "change",
    [
        lambda words: None,
        lambda words: words[1:],
        lambda words: words.to(torch.int64),
        lambda words: words[None],
    ],
)
def test_words_of_another_shape_are_one_clients_failure(recorded, action, change):
    results, _ = recorded("rounds=1", spoil=_with_words(action=action, change=change))
    (failure,) = results[1].failures
    assert failure.client == 2
    assert failure.reason.startswith("dropped: ")
    assert "masked words" in failure.reason


@pytest.mark.parametrize("action", [Action.ROUND, Action.SCORES])
def test_masks_that_do_not_cancel_stop_the_run(recorded, action):
    def change(words):
        return torch.from_numpy(words.numpy() + np.uint32(12345678))

    with pytest.raises(RunStopped, match=r"round 1: the masked sums of 4 clients are no sums"):
        recorded("rounds=1", spoil=_with_words(action=action, change=change))


@pytest.mark.parametrize(
    "key", [None, torch.zeros(31, dtype=torch.uint8), torch.zeros(32, dtype=torch.int64)]
)
def test_a_client_without_a_key_stops_the_run_at_set_up(recorded, key):
    def spoil(request: Request, reply: Reply) -> Reply:
        wrong = request.client == 2 and request.action is Action.KEYS
        return replace(reply, key=key) if wrong else reply

    with pytest.raises(RunStopped, match="set-up: client 2 gave no key for masked sums"):
        recorded(spoil=spoil)
    with pytest.raises(RunStopped, match=r"client 2 gave no key .*\(SilenceError\)"):
        recorded(spoil=_falls_silent((2, Action.KEYS)))


def test_a_server_that_changes_a_key_gets_no_answer(play, tiny):
    class Meddling(InProcessGrid):
        def _deliver(self, message):
            if message.metadata.message_type == Action.ROUND.value and "keys" in message.content:
                keys = message.content.array_records["keys"]
                public = keys["public"].numpy().copy()
                public[:, 0] ^= 1
                keys["public"] = type(keys["public"])(public)
            return super()._deliver(message)

    with pytest.raises(RunStopped, match="MaskingError"):
        play(tiny(*SUMS), grid=Meddling)


# On the wire.


def _wire(records):
    """Send records through real bytes."""
    data = recorddict_to_proto(records).SerializeToString()
    return recorddict_from_proto(ProtoRecordDict.FromString(data))


@pytest.mark.parametrize("rows", [None, [], [0], [2, 3, 17]])
@pytest.mark.parametrize("members", [(0, 1, 5), tuple(range(300))])
def test_a_roll_and_keys_come_back(rows, members):
    announced = None if rows is None else torch.tensor(rows, dtype=torch.int64)
    public = torch.arange(64, dtype=torch.uint8).reshape(2, 32)
    request = Request(
        action=Action.SCORES,
        client=5,
        round=7,
        roll=Roll(members=members, attempt=3, rows=announced),
        keys=Keys(clients=torch.tensor([0, 5]), public=public),
    )
    back = read_request(_wire(request_records(request)), action=Action.SCORES, client=5)
    assert (back.round, back.roll.members, back.roll.attempt) == (7, members, 3)
    assert back.roll.rows is None if rows is None else back.roll.rows.tolist() == rows
    assert back.keys.clients.tolist() == [0, 5]
    assert torch.equal(back.keys.public, public)


def test_masked_words_and_a_key_come_back():
    words = np.array([[0, 1], [2**31, 2**32 - 1]], dtype=np.uint32)
    key = torch.arange(32, dtype=torch.uint8)
    records = reply_records(Reply(client=3, masked=torch.from_numpy(words), key=key))
    back = read_reply(_wire(records))
    assert back.masked.dtype == torch.uint32
    assert back.masked.tolist() == words.tolist()
    assert torch.equal(back.key, key)
    assert (back.upload, back.client) == (None, 3)
    assert {"masked", "keys", "control"} == set(count_bytes(records))


@pytest.mark.parametrize(
    "facts",
    [
        {"members": 3, "attempt": 1, "n_rows": 0},
        {"members": [0, 1], "attempt": "1", "n_rows": 0},
        {"members": [0, 1], "attempt": 1, "n_rows": [9]},
        {"members": [0, 1], "attempt": 1, "n_rows": 10**6},
    ],
)
def test_a_roll_that_is_none_is_refused(facts):
    roll = Roll(members=(0, 1), rows=torch.tensor([1]))
    records = request_records(Request(action=Action.SCORES, client=0, roll=roll))
    records["roll"] = ConfigRecord(facts)
    with pytest.raises(RecordError, match=r"roll|mask"):
        read_request(records, action=Action.SCORES, client=0)


# Scenarios that cannot be summed.


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=fedavg"], "sends no knowledge to sum"),
        (["method=local"], "sends no knowledge to sum"),
        (["method=fedmd", "method.distiller=mae"], "reads logits, which have no bound"),
        (["method=gnmax", "method.aggregator.noise_multiplier=1"], "'gnmax' needs more than sums"),
        (["clients=3", "n_min=4"], "n_min: 4 keepers a row are asked for, but there are 3"),
        (["cohort=3"], "cohort: 3 of 4 clients would change"),
    ],
)
def test_it_is_refused_with_the_reason(tiny, overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        tiny(*SUMS, *overrides)


def test_n_min_below_two_is_refused(tiny):
    with pytest.raises(ConfigError, match="n_min"):
        tiny("server_view=sums", "n_min=1")
