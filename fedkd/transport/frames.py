"""Requests, replies and harvests as bytes, for processes that share one simulation.

A frame is a JSON header and some byte strings, tensors among them as they lie in memory. Nothing
is pickled.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from torch import Tensor

from fedkd.methods.base import Method
from fedkd.transport.batch import Harvest, Node
from fedkd.transport.codes import RecordError
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.reading import parsed
from fedkd.transport.records import read_reply, read_request, reply_records, request_records
from fedkd.transport.stored import Stored, content_of, from_bytes, stored, to_bytes
from fedkd.types import Broadcast, Consensus, ProxySet, Upload

Blob = bytes | memoryview
"""Some bytes; a view is one of single bytes."""
Frame = tuple[dict[str, Any], list[Blob]]


def pieces(header: dict[str, Any], blobs: Sequence[Blob]) -> list[Blob]:
    """Return a frame in pieces that are to follow each other: lengths, header, byte strings."""
    text = json.dumps(header).encode()
    sizes = [len(text), *(len(blob) for blob in blobs)]
    return [struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes), text, *blobs]


def pack(header: dict[str, Any], blobs: Sequence[Blob]) -> bytes:
    """Return a frame as one byte string."""
    return b"".join(pieces(header, blobs))


def unpack(data: Blob) -> Frame:
    """Return what :func:`pack` put together, with views of ``data``; RecordError for all else."""
    try:
        (count,) = struct.unpack_from("<I", data)
        sizes = struct.unpack_from(f"<{count}Q", data, 4)
    except struct.error:
        raise RecordError(f"a damaged frame of {len(data)} bytes") from None
    start, parts, whole = 4 + 8 * count, list[Blob](), memoryview(data)
    if not count or start + sum(sizes) != len(data):
        raise RecordError(f"a damaged frame: {len(data)} bytes for {count} parts")
    for size in sizes:
        parts.append(whole[start : start + size])
        start += size
    return parsed(bytes(parts[0])), parts[1:]


@dataclass(kw_only=True)
class _Bundle:
    """The byte strings of a frame, each once."""

    blobs: list[Blob] = field(default_factory=list[Blob])
    places: dict[int, int] = field(default_factory=dict[int, int])

    def put(self, blob: Blob) -> int:
        """Return a byte string's place."""
        if id(blob) not in self.places:
            self.places[id(blob)] = len(self.blobs)
            self.blobs.append(blob)
        return self.places[id(blob)]

    def put_all(self, tensors: Sequence[_Raw]) -> list[list[Any]]:
        """Return what :func:`_taken` asks for of some tensors."""
        return [[raw.name, raw.kind, raw.shape, self.put(raw.blob)] for raw in tensors]


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """A tensor as it lies in memory."""

    name: str
    kind: str
    shape: tuple[int, ...]
    blob: Blob


def _raw(tensors: Mapping[str, Tensor]) -> list[_Raw]:
    """Return tensors without copying them; they must not change until the frame is sent."""
    found: list[_Raw] = []
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        kind, shape = str(plain.dtype).removeprefix("torch."), tuple(plain.shape)
        blob = plain.flatten().view(torch.uint8).numpy().data
        found.append(_Raw(name=name, kind=kind, shape=shape, blob=blob))
    return found


def _taken(told: Sequence[Sequence[Any]], blobs: Sequence[Blob]) -> dict[str, Tensor]:
    """Return the tensors of a frame, copied."""
    found: dict[str, Tensor] = {}
    for name, kind, shape, place in told:
        tensor = torch.empty(shape, dtype=getattr(torch, kind))
        if tensor.numel():
            raw = torch.from_numpy(np.frombuffer(blobs[place], dtype=np.uint8).copy())
            tensor = raw.view(tensor.dtype).view(shape)
        found[name] = tensor
    return found


def of_requests(
    shares: Mapping[int, Sequence[Request]], facts: Mapping[str, Any]
) -> dict[int, Frame]:
    """Return a frame for each share of some requests of one action.

    What several requests hold in common is serialised once; it is in a frame once, and the same
    byte string in all frames.
    """
    made: dict[tuple[int, ...], bytes] = {}
    sent: dict[int, tuple[dict[str, Any], list[_Raw]]] = {}
    frames: dict[int, Frame] = {}
    for n, requests in shares.items():
        places: dict[tuple[int, ...], int] = {}
        bundle, contents, where = _Bundle(), list[dict[str, Any]](), list[int]()
        for request in requests:
            incoming = request.incoming
            same = (id(incoming), id(request.proxy), id(request.roll), id(request.keys))
            if same not in made:
                records = recorddict_to_proto(request_records(replace(request, incoming=None)))
                made[same] = records.SerializeToString()
            if same not in places:
                places[same] = len(contents)
                contents.append({"records": bundle.put(made[same])})
                if incoming is not None:
                    if id(incoming) not in sent:
                        sent[id(incoming)] = _as_told(incoming)
                    about, raw = sent[id(incoming)]
                    contents[-1] |= {"facts": about, "tensors": bundle.put_all(raw)}
            where.append(places[same])
        header = {
            "action": requests[0].action.value,
            "clients": [request.client for request in requests],
            "where": where,
            "contents": contents,
        }
        frames[n] = (header | dict(facts), bundle.blobs)
    return frames


def _as_told(broadcast: Broadcast) -> tuple[dict[str, Any], list[_Raw]]:
    """Return a broadcast as clients get it."""
    told = replace(broadcast, keepers=None) if isinstance(broadcast, Consensus) else broadcast
    parts = stored(told)
    return parts.facts, _raw(parts.tensors)


def to_requests(header: dict[str, Any], blobs: Sequence[Blob]) -> list[Request]:
    """Return the requests of a frame; requests that shared content share it again."""
    action, contents = Action(header["action"]), header["contents"]
    incoming: dict[tuple[int, ...], Any] = {}
    asked: list[Request] = []
    read: dict[int, Request] = {}
    for client, place in zip(header["clients"], header["where"], strict=True):
        first = read.get(place)
        if first is None or _has_own_rows(first.proxy):
            told = contents[place]
            records = recorddict_from_proto(Proto.FromString(bytes(blobs[told["records"]])))
            first = read_request(records, action=action, client=client)
            if "tensors" in told:
                same = tuple(at for *_, at in told["tensors"])
                if same not in incoming:
                    parts = Stored(tensors=_taken(told["tensors"], blobs), facts=told["facts"])
                    incoming[same] = content_of(parts)
                first = replace(first, incoming=incoming[same])
            read[place] = first
            asked.append(first)
            continue
        asked.append(
            Request(
                action=action,
                client=client,
                round=first.round,
                incoming=first.incoming,
                proxy=first.proxy,
                closing=first.closing,
                roll=first.roll,
                keys=first.keys,
            )
        )
    return asked


def _has_own_rows(proxy: ProxySet | None) -> bool:
    """Return whether a proxy set names its reader's own rows, so that nobody else can have it."""
    return proxy is not None and proxy.owner is not None


def of_replies(replies: Sequence[Reply]) -> Frame:
    """Return a frame of replies."""
    header = {
        "clients": [reply.client for reply in replies],
        "errors": [reply.error for reply in replies],
    }
    return header, [recorddict_to_proto(reply_records(r)).SerializeToString() for r in replies]


def to_replies(frame: Frame) -> list[Reply]:
    """Return the replies of a frame."""
    header, blobs = frame
    return [
        Reply(client=client, error=error)
        if error
        else read_reply(recorddict_from_proto(Proto.FromString(bytes(blob))))
        for client, error, blob in zip(header["clients"], header["errors"], blobs, strict=True)
    ]


def of_harvest(harvest: Harvest, *, method: Method) -> Frame:
    """Return a frame of a harvest, with views of its states."""
    states: list[tuple[Node, dict[str, Any], list[list[Any]]]] = []
    bundle = _Bundle()
    kept = [bundle.put(_stored(uploads)) for uploads in (harvest.uploads, harvest.late)]
    for node, state in harvest.states.items():
        tensors, facts = method.to_tensors(state)
        states.append((node, facts, bundle.put_all(_raw(tensors))))
    header = {
        "kept": kept,
        "answered": harvest.answered,
        "failures": harvest.failures,
        "states": states,
        "tallies": harvest.tallies,
        "bytes_up": harvest.bytes_up,
        "refused": harvest.refused,
        "waited": harvest.waited,
        "spent": list(harvest.spent.items()),
    }
    return header, bundle.blobs


def to_harvest(frame: Frame, *, method: Method) -> Harvest:
    """Return the harvest of a frame."""
    header, blobs = frame
    uploads, late = (_uploads(bytes(blobs[place])) for place in header["kept"])
    states: dict[Node, Any] = {}
    for (height, number), facts, told in header["states"]:
        states[height, number] = method.from_tensors(_taken(told, blobs), facts)
    return Harvest(
        answered=header["answered"],
        failures=[(client, reason) for client, reason in header["failures"]],
        states=states,
        uploads=uploads,
        tallies=Counter(header["tallies"]),
        bytes_up=Counter(header["bytes_up"]),
        refused=[(client, reason) for client, reason in header["refused"]],
        late=late,
        waited=header["waited"],
        spent={client: (seconds, joules) for client, (seconds, joules) in header["spent"]},
    )


def _stored(uploads: Mapping[int, Upload]) -> bytes:
    parts = {str(client): stored(upload) for client, upload in uploads.items()}
    return to_bytes(parts) if parts else b""


def _uploads(data: bytes) -> dict[int, Upload]:
    parts = from_bytes(data) if data else {}
    return {int(client): content_of(part) for client, part in parts.items()}  # pyright: ignore[reportReturnType]
