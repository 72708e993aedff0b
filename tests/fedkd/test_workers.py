"""What crosses between a server and its workers: whole, however long, and no view of it stays."""

from __future__ import annotations

import os

import pytest
import torch

from fedkd.transport import workers
from fedkd.transport.frames import Frame, of_requests, pack, to_requests, unpack
from fedkd.transport.messages import Action, Request
from fedkd.transport.workers import ForkedWorker
from fedkd.types import Consensus, ProxySet, ProxySource, Space, Update


def _echo(frame: Frame) -> Frame:
    header, blobs = frame
    if header.get("die"):
        os._exit(1)
    return {"heard": header}, [bytes(blob)[::-1] for blob in blobs]


@pytest.mark.parametrize("room", [workers.ROOM, 64], ids=["in memory", "through the pipe"])
def test_frames_of_any_length_come_back_one_after_the_other(room, monkeypatch):
    monkeypatch.setattr(workers, "ROOM", room)
    worker = ForkedWorker(_echo)
    try:
        for n, length in enumerate((0, 10, 100_000, 3)):
            assert worker.send(({"n": n}, [b"ab" * length, b"c"]))
            answer = worker.receive()
            assert answer == ({"heard": {"n": n}}, [b"ba" * length, b"c"])
    finally:
        worker.close()


def test_a_worker_that_died_neither_answers_nor_is_sent_to():
    worker = ForkedWorker(_echo)
    assert worker.send(({"die": True}, []))
    assert worker.receive() is None
    assert not worker.send(({}, [])) or worker.receive() is None
    worker.close()


def _proxy(owner: torch.Tensor | None) -> ProxySet:
    ids = torch.arange(4)
    return ProxySet(
        inputs=torch.rand(4, 3), ids=ids, owner=owner, source=ProxySource.POOLED, version=2
    )


def _crossed(requests: list[Request]) -> list[Request]:
    frames = of_requests({0: requests}, {})
    memory = bytearray(pack(*frames[0]))
    header, blobs = unpack(memoryview(memory))
    found = to_requests(header, blobs)
    memory[:] = bytes(len(memory))  # the next frame is written over it
    return found


def _round(client: int, **more: object) -> Request:
    return Request(action=Action.ROUND, client=client, round=3, **more)  # pyright: ignore[reportArgumentType]


def test_what_clients_have_in_common_is_one_object_on_the_other_side_too():
    update = Update(arrays={"a": torch.rand(5), "b": torch.rand(2, 3)})
    proxy = _proxy(None)
    one, two = _crossed([_round(n, incoming=update, proxy=proxy) for n in (4, 7)])
    assert (one.client, two.client, one.round) == (4, 7, 3)
    assert one.incoming is two.incoming
    assert one.proxy is two.proxy
    assert isinstance(one.incoming, Update)
    assert one.proxy is not None
    assert torch.equal(one.proxy.inputs, proxy.inputs)
    for name, tensor in update.arrays.items():
        assert torch.equal(one.incoming.arrays[name], tensor)


def test_each_reads_its_own_rows_of_a_pooled_set_and_nobody_s_keepers():
    told = Consensus(
        rows=torch.tensor([0, 2]),
        scores=torch.rand(2, 3),
        space=Space.LOGITS,
        temperature=2.0,
        keepers=torch.tensor([1, 2]),
    )
    pooled = _proxy(torch.tensor([4, 7, 7, 4]))
    asked = [_round(n, incoming=told, proxy=pooled.seen_by(n)) for n in (4, 7)]
    one, two = _crossed(asked)
    assert one.incoming is two.incoming
    assert isinstance(one.incoming, Consensus)
    assert one.incoming.keepers is None
    assert torch.equal(one.incoming.scores, told.scores)
    for found, request in zip((one, two), asked, strict=True):
        assert found.proxy is not None
        assert request.proxy is not None
        assert found.proxy.owner is not None
        assert request.proxy.owner is not None
        assert torch.equal(found.proxy.owner, request.proxy.owner)


def test_a_consensus_about_no_row_crosses():
    told = Consensus(
        rows=torch.zeros(0, dtype=torch.int64),
        scores=torch.zeros(0, 3),
        space=Space.LOGITS,
        temperature=2.0,
        keepers=None,
    )
    (found,) = _crossed([_round(0, incoming=told)])
    assert isinstance(found.incoming, Consensus)
    assert found.incoming.scores.shape == (0, 3)
    assert found.incoming.rows.dtype == torch.int64
