"""What strangers' bytes go through, in one call: read, checked, taken in, stored.

Every function returns a word that says what became of the bytes, and lets any exception through
that is not a documented one: that is a finding.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from fedkd_server.intake import UploadIntake
from fedkd_server.validation import (
    UploadError,
    check_contribution,
    check_knowledge,
    check_update,
)
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto

from fedkd.compose import compose
from fedkd.transport.codes import RecordError
from fedkd.transport.frames import pack, unpack
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.reading import Limits
from fedkd.transport.records import read_reply, read_request
from fedkd.transport.stored import (
    content_of,
    from_bytes,
    proxy_of,
    stored,
    to_bytes,
    traffic_of,
)
from fedkd.types import Consensus, Knowledge
from tests.fuzz.real_messages import N_CLASSES, N_ROWS, proxy_set, update

CLIENT = 2
LIMITS = Limits.of_knowledge(n_rows=N_ROWS, n_classes=N_CLASSES)
TINY = ("data=digits", "models=mlp", "clients=3", "rounds=2", "partition=iid")
SPOKEN = {
    "probabilities": ("method=fedmd",),
    "told": ("method=fedmd", "protector=swing", "protector.server_temperature=told"),
    "half": ("method=fedmd", "wire=float16"),
    "parameters": ("method=fedavg", "training.optimizer=sgd"),
}


@lru_cache(maxsize=1)
def intakes() -> list[UploadIntake]:
    """Return the server's side of taking in uploads, one for each kind of scenario."""
    made: list[UploadIntake] = []
    for words in SPOKEN.values():
        proxy = () if "method=fedavg" in words else ("proxy={name: external, size: 20}",)
        intake = UploadIntake(compose([*TINY, *proxy, *words]))
        if proxy:
            intake.learn(proxy_set())
        made.append(intake)
    return made


def received(data: bytes) -> RecordDict | None:
    """Return what Flower makes of serialised records, None where it stumbles itself.

    Its own reader raises whatever comes up (an AttributeError on an empty value); none of ours
    is in that.
    """
    try:
        return recorddict_from_proto(Proto.FromString(data))
    except Exception:
        return None


def as_reply(data: bytes) -> str:
    """Read bytes as a client's reply, and take it in as the servers of all scenarios would."""
    records = received(data)
    return "not Flower's" if records is None else reply_in(records)


def reply_in(records: RecordDict) -> str:
    """Read records as a client's reply, and take it in as the servers of all scenarios would."""
    try:
        reply = read_reply(records, LIMITS)
    except RecordError:
        return "unreadable"
    said = ["read"]
    for intake in intakes():
        said += _taken(intake, reply)
    try:
        like = proxy_set().inputs[:1]
        sound = check_contribution(reply.contribution, like=like, n_ids=N_ROWS)
        assert len(torch.unique(sound.ids)) == len(sound) <= N_ROWS
        said.append("contribution")
    except UploadError:
        pass
    return " ".join(said)


def _taken(intake: UploadIntake, reply: Reply) -> list[str]:
    sent, said = update(), list[str]()
    try:
        upload = check_update(reply.upload, sent)
        assert all(bool(torch.isfinite(value).all()) for value in upload.arrays.values())
        said.append("update")
    except UploadError:
        pass
    if intake.limits() != Limits():
        try:
            _assert_sound(check_knowledge(reply.upload, intake.expected()))
            said.append("knowledge")
        except UploadError:
            pass
    request = Request(action=Action.ROUND, client=CLIENT, round=1, incoming=sent)
    for keep in (False, True):
        harvest = intake.take([request], [reply], keep=keep)
        for _, reason in harvest.failures:
            assert " " in reason.removeprefix("dropped: "), (
                f"an exception that is no type: {reason}"
            )
    return said


def _assert_sound(upload: Knowledge) -> None:
    rows, scores = upload.rows, upload.scores.float()
    assert scores.shape == (len(rows), N_CLASSES)
    assert bool(torch.isfinite(scores).all())
    assert bool((scores >= 0).all())
    assert bool(((scores.sum(dim=1) - 1).abs() < 0.01).all())
    assert bool((rows[1:] > rows[:-1]).all())
    assert not len(rows) or (int(rows[0]) >= 0 and int(rows[-1]) < N_ROWS)
    assert bool(((upload.weights > 0) & (upload.weights <= 1)).all())
    (back,) = traffic_of(from_bytes(to_bytes({"upload.1": stored(upload)}))).uploads.values()
    assert isinstance(back, Knowledge)
    assert torch.equal(back.scores, scores)


def as_request(data: bytes) -> str:
    """Read bytes as the server's request, as a client does."""
    records = received(data)
    return "not Flower's" if records is None else request_in(records)


def request_in(records: RecordDict) -> str:
    """Read records as the server's request, as a client does."""
    try:
        request = read_request(records, action=Action.ROUND, client=0)
    except RecordError:
        return "unreadable"
    if isinstance(request.incoming, Consensus):
        assert len(request.incoming.rows) == len(request.incoming.scores)
    return "read"


def as_file(data: bytes) -> str:
    """Read bytes as a file of ours: a transcript's or a checkpoint's."""
    try:
        parts = from_bytes(data)
    except RecordError:
        return "unreadable"
    said = ["read"]
    for read in (traffic_of, lambda p: [content_of(s) for s in p.values()], _proxies):
        try:
            read(parts)
            said.append("content")
        except RecordError:
            pass
    return " ".join(said)


def _proxies(parts: dict) -> None:
    for part in parts.values():
        proxy = proxy_of(part)
        assert len(proxy.ids) == len(proxy)


def as_frame(data: bytes) -> str:
    """Read bytes as a frame between processes of a simulation."""
    try:
        header, blobs = unpack(data)
    except RecordError:
        return "unreadable"
    assert sum(len(blob) for blob in blobs) <= len(data)
    assert unpack(pack(header, blobs)) == (header, blobs)
    return "read"


WAYS = (as_reply, as_request, as_file, as_frame)


def swallow(data: bytes) -> str:
    """Read bytes in the way that their first byte names."""
    return WAYS[data[0] % len(WAYS)](data[1:]) if data else "nothing"
