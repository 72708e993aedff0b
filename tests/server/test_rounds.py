"""The real server against the real client app, with some clients that misbehave."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fedkd_clients.app import fleet_in_memory
from fedkd_server.cohort import cohort
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedkd.errors import RunStopped
from fedkd.transport.inprocess import InProcessGrid
from fedkd.transport.messages import Action, Reply, Request
from fedkd.types import Knowledge, Space, Update

SECRET = "patient 4711 has it"


class PrivateTroubleError(RuntimeError):
    """An error whose text holds private data."""


class Sabotaged:
    """A real fleet of which some clients misbehave in some rounds."""

    def __init__(self, scenario, spoil: Callable[[Request, Reply], Reply]) -> None:
        self.fleet, self.spoil = fleet_in_memory(scenario), spoil

    def handle(self, requests):
        return [
            self.spoil(request, reply)
            for request, reply in zip(requests, self.fleet.handle(requests), strict=True)
        ]


def _in_round(*clients: int, then: Callable[[Reply], Reply]):
    def spoil(request: Request, reply: Reply) -> Reply:
        if request.action is Action.ROUND and request.client in clients:
            return then(reply)
        return reply

    return spoil


def _raise(_: Reply) -> Reply:
    raise PrivateTroubleError(SECRET)


def _nan(reply: Reply) -> Reply:
    if isinstance(reply.upload, Update):
        arrays = {k: torch.full_like(v, float("nan")) for k, v in reply.upload.arrays.items()}
        return replace(reply, upload=replace(reply.upload, arrays=arrays))
    return replace(reply, upload=replace(reply.upload, scores=reply.upload.scores * float("nan")))


def _heavy(reply: Reply) -> Reply:
    if isinstance(reply.upload, Update):
        return replace(reply, upload=replace(reply.upload, weight=1e9))
    return replace(
        reply, upload=replace(reply.upload, weights=torch.full_like(reply.upload.weights, 1e9))
    )


def _silent(reply: Reply) -> Reply:
    return replace(reply, upload=None)


def _foreign_kind(reply: Reply) -> Reply:
    if isinstance(reply.upload, Knowledge):
        return replace(reply, upload=Update(arrays={"w": torch.ones(1)}, weight=1.0))
    knowledge = Knowledge(
        rows=torch.tensor([0]),
        scores=torch.ones(1, 1),
        weights=torch.ones(1),
        space=Space.PROBS,
    )
    return replace(reply, upload=knowledge)


@pytest.fixture
def sabotage(play, tiny):
    """Play a tiny run in which ``then`` is done to the round replies of ``clients``."""

    def run(*clients: int, then, overrides=()):
        scenario = tiny(*overrides)
        fleet = Sabotaged(scenario, _in_round(*clients, then=then))
        return play(scenario, fleet_for=lambda _: fleet)

    return run


def test_a_raising_client_is_named_with_round_and_type_but_not_with_its_words(sabotage, caplog):
    with caplog.at_level(logging.ERROR, logger="fedkd.client"):
        results = sabotage(1, then=_raise)
    failures = [f for r in results for f in r.failures]
    assert [(f.round, f.client, f.reason) for f in failures] == [
        (1, 1, "PrivateTroubleError"),
        (2, 1, "PrivateTroubleError"),
    ]
    assert SECRET not in repr(results)
    assert SECRET in caplog.text, "on the client's own side, the words are what helps"
    assert results[-1].round == 2


def test_no_word_of_a_client_is_in_any_reply(play, tiny):
    seen = []

    class Listening(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            seen.extend(reply.error.reason for reply in replies if reply.has_error())
            return replies

    scenario = tiny()
    fleet = Sabotaged(scenario, _in_round(2, then=_raise))
    play(scenario, fleet_for=lambda _: fleet, grid=Listening)
    assert seen == ["PrivateTroubleError"] * 2


@pytest.mark.parametrize("method", ["edgefd", "edgefd_soft", "fedavg"])
@pytest.mark.parametrize("then", [_nan, _heavy, _silent, _foreign_kind])
def test_a_bad_upload_leaves_the_result_as_if_its_client_had_not_answered(sabotage, method, then):
    overrides = [f"method={method}"]
    without = sabotage(2, then=_raise, overrides=overrides)
    spoilt = sabotage(2, then=then, overrides=overrides)
    assert [r.digest for r in spoilt] == [r.digest for r in without]
    assert all(r.digest for r in spoilt[1:])
    failures = [f for r in spoilt for f in r.failures]
    assert [(f.round, f.client) for f in failures] == [(1, 2), (2, 2)]
    assert all(f.reason.startswith("dropped: ") for f in failures)


def test_a_bad_client_does_change_the_result_of_a_good_one(sabotage, play, tiny):
    good, spoilt = play(tiny()), sabotage(2, then=_nan)
    assert good[1].digest != spoilt[1].digest
    assert good[1].failures == []


def test_what_the_server_makes_of_a_spoilt_round_is_finite(sabotage):
    results = sabotage(2, then=_nan)
    values = [m.value for r in results for m in r.measurements]
    assert all(torch.isfinite(torch.tensor(values)))


def test_below_min_completion_the_run_stops_and_says_where_and_why(sabotage):
    with pytest.raises(RunStopped) as error:
        sabotage(0, 2, then=_raise)
    text = str(error.value)
    assert "round 1" in text
    assert "only 1 of 3" in text
    assert "min_completion=0.5" in text
    assert "client 0: PrivateTroubleError" in text
    assert SECRET not in text


def test_min_completion_is_what_the_scenario_says(sabotage):
    assert len(sabotage(0, 2, then=_raise, overrides=["min_completion=0.3"])) == 3
    with pytest.raises(RunStopped, match="round 1: only 2 of 3"):
        sabotage(0, then=_nan, overrides=["min_completion=1"])


def test_nobody_left_stops_the_run(sabotage):
    with pytest.raises(RunStopped, match="round 1: only 0 of 3"):
        sabotage(0, 1, 2, then=_nan, overrides=["min_completion=0.01"])


def test_set_up_without_any_contribution_stops_the_run(play, tiny):
    scenario = tiny()

    def spoil(request: Request, reply: Reply) -> Reply:
        return replace(reply, contribution=None)

    fleet = Sabotaged(scenario, spoil)
    with pytest.raises(RunStopped, match="set-up: no client gave proxy rows"):
        play(scenario, fleet_for=lambda _: fleet)


def test_one_client_without_a_contribution_is_a_failure_of_set_up_only(play, tiny):
    scenario = tiny()

    def spoil(request: Request, reply: Reply) -> Reply:
        return replace(reply, contribution=None) if request.client == 0 else reply

    fleet = Sabotaged(scenario, spoil)
    results = play(scenario, fleet_for=lambda _: fleet)
    assert [(f.round, f.client) for f in results[0].failures] == [(0, 0)]
    assert [r.failures for r in results[1:]] == [[], []]
    assert results[-1].digest


def test_the_first_clients_odd_contribution_does_not_shut_the_others_out(play, tiny):
    scenario = tiny()

    def spoil(request: Request, reply: Reply) -> Reply:
        if request.client == 0 and reply.contribution is not None:
            odd = replace(reply.contribution, inputs=reply.contribution.inputs[..., :3])
            return replace(reply, contribution=odd)
        return reply

    fleet = Sabotaged(scenario, spoil)
    results = play(scenario, fleet_for=lambda _: fleet)
    assert [(f.round, f.client) for f in results[0].failures] == [(0, 0)]
    assert [r.failures for r in results[1:]] == [[], []]


def test_ids_from_nowhere_do_not_break_the_run(play, tiny):
    scenario = tiny()

    def spoil(request: Request, reply: Reply) -> Reply:
        if request.client == 0 and reply.contribution is not None:
            ids = reply.contribution.ids + 10**6
            return replace(reply, contribution=replace(reply.contribution, ids=ids))
        return reply

    fleet = Sabotaged(scenario, spoil)
    results = play(scenario, fleet_for=lambda _: fleet)
    assert [(f.round, f.client) for f in results[0].failures] == [(0, 0)]


# Replies that cannot even be read.


def _header(**changes):
    def corrupt(content) -> None:
        content["control"] = ConfigRecord({**content["control"], **changes})

    return corrupt


def _array(data: bytes):
    def corrupt(content) -> None:
        broken = Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=data)
        content["knowledge"] = ArrayRecord({"scores": broken})

    return corrupt


def _without(name: str):
    def corrupt(content) -> None:
        del content[name]

    return corrupt


def _odd_stype(content) -> None:
    broken = Array(dtype="float32", shape=(1,), stype="pickle", data=b"cos\nsystem\n(S'x'\ntR.")
    content["knowledge"] = ArrayRecord({"scores": broken})


CORRUPTIONS = {
    "newer schema": _header(schema=2),
    "no header": _without("control"),
    "no mask": _without("masks"),
    "another number of rows": _header(n_rows=3),
    "negative number of rows": _header(n_rows=-3),
    "infinite number of rows": _header(n_rows=float("inf")),
    "number of rows is a word": _header(n_rows="many"),
    "NaN number of rows": _header(n_rows=float("nan")),
    "unknown space": _header(space="banana"),
    "temperature is a word": _header(temperature="hot"),
    "infinite client": _header(client=float("inf")),
    "empty array": _array(b""),
    "garbled array": _array(b"\x93NUMPY\x01\x00garbled"),
    "truncated header": _array(b"\x93NUM"),
    "a zip for an array": _array(b"PK\x03\x04 no zip either"),
    "text for an array": _array(b"hello"),
    "another serialisation": _odd_stype,
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_an_unreadable_reply_is_one_clients_failure(play, tiny, kind):
    class Garbling(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            for reply in replies:
                if reply.metadata.message_type == "train.round" and reply.metadata.src_node_id == 2:
                    CORRUPTIONS[kind](reply.content)
            return replies

    results = play(tiny("rounds=1"), grid=Garbling)
    (failure,) = results[1].failures
    assert (failure.round, failure.client) == (1, 1)
    assert failure.reason.startswith(("unreadable reply (", "dropped: "))
    assert results[1].digest


def test_lost_and_doubled_replies_are_told_apart(play, tiny):
    class Lossy(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            if replies[0].metadata.message_type != "train.round":
                return replies
            first, _, third = replies
            return [first, first, third]

    results = play(tiny("rounds=1"), grid=Lossy)
    (failure,) = results[1].failures
    assert (failure.client, failure.reason) == (1, "no answer")


def test_missing_clients_are_named_before_anything_is_trained(play, tiny):
    class Short(InProcessGrid):
        def get_node_ids(self):
            return super().get_node_ids()[:2]

    with pytest.raises(
        RunStopped, match=r"2 nodes answered for 3 clients; missing client ids \[2\]"
    ):
        play(tiny(), grid=Short)


def test_an_unreadable_hello_is_a_missing_client(play, tiny):
    class Mumbling(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            if replies[0].metadata.message_type == "query.hello":
                _header(schema=2)(replies[0].content)
            return replies

    with pytest.raises(RunStopped, match=r"missing client ids \[0\]"):
        play(tiny(), grid=Mumbling)


# Cohorts.


def test_a_cohort_is_drawn_by_seed_and_round_alone(tiny, global_seed):
    scenario = tiny("clients=9", "cohort=4")
    with global_seed(1):
        drawn = [cohort(scenario, range(9), round=n) for n in range(1, 30)]
    with global_seed(2):
        assert drawn == [cohort(scenario, range(9), round=n) for n in range(1, 30)]
    assert all(len(c) == 4 and c == sorted(set(c)) for c in drawn)
    assert {client for c in drawn for client in c} == set(range(9))
    other = replace(scenario, seed=1)
    assert drawn != [cohort(other, range(9), round=n) for n in range(1, 30)]


def test_without_a_size_everybody_takes_part(tiny):
    assert cohort(tiny(), [0, 1, 2], round=1) == [0, 1, 2]


def test_only_the_cohort_is_asked(play, tiny):
    results = play(tiny("cohort=1", "rounds=3"))
    assert [len(r.cohort) for r in results] == [0, 1, 1, 1]
    for result in results[1:-1]:
        measured = {m.client for m in result.measurements if m.name == "accuracy"}
        assert measured == set(result.cohort)


def test_a_proxy_set_is_sent_once_to_each_client(play, tiny):
    def sent(results):
        return [
            sum(m.value for m in r.measurements if m.name == "bytes_down.proxy") for r in results
        ]

    everybody = sent(play(tiny("rounds=3")))
    assert everybody[1] > 0
    assert everybody[2:] == [0, 0]
    one_a_round = sent(play(tiny("cohort=1", "rounds=6", "proxy=external", "proxy.size=90")))
    assert sum(one > 0 for one in one_a_round) <= 3
