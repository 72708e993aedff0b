"""Requests, replies and harvests as bytes, for processes that share one simulation.

A frame is a JSON header and some byte strings. Nothing is pickled.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from safetensors.torch import load, save

from fedkd.methods.base import Method
from fedkd.transport.batch import Harvest
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.records import read_reply, read_request, reply_records, request_records
from fedkd.transport.stored import content_of, from_bytes, stored, to_bytes

Frame = tuple[dict[str, Any], list[bytes]]


def pack(header: dict[str, Any], blobs: Sequence[bytes]) -> bytes:
    """Return one byte string: lengths, header, byte strings."""
    text = json.dumps(header).encode()
    sizes = [len(text), *(len(blob) for blob in blobs)]
    return b"".join((struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes), text, *blobs))


def unpack(data: bytes) -> Frame:
    """Return what :func:`pack` put together; ValueError for anything else."""
    try:
        (count,) = struct.unpack_from("<I", data)
        sizes = struct.unpack_from(f"<{count}Q", data, 4)
        start, parts = 4 + 8 * count, list[bytes]()
        for size in sizes:
            parts.append(data[start : start + size])
            start += size
        header = json.loads(parts[0])
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"a damaged frame of {len(data)} bytes: {error}") from None
    return header, parts[1:]


def of_requests(requests: Sequence[Request], **facts: Any) -> bytes:
    """Return a frame of requests of one action; what several of them share is in it once."""
    places: dict[tuple[int, ...], int] = {}
    blobs: list[bytes] = []
    where: list[int] = []
    for request in requests:
        same = tuple(map(id, (request.incoming, request.proxy, request.roll, request.keys)))
        if same not in places:
            places[same] = len(blobs)
            blobs.append(recorddict_to_proto(request_records(request)).SerializeToString())
        where.append(places[same])
    header = {
        "action": requests[0].action.value,
        "clients": [request.client for request in requests],
        "where": where,
    }
    return pack(header | facts, blobs)


def to_requests(header: dict[str, Any], blobs: Sequence[bytes]) -> list[Request]:
    """Return the requests of a frame; requests that shared content share it again."""
    action = Action(header["action"])
    asked: list[Request] = []
    shared: dict[int, Request] = {}
    for client, place in zip(header["clients"], header["where"], strict=True):
        records = recorddict_from_proto(Proto.FromString(blobs[place]))
        request = read_request(records, action=action, client=client)
        first = shared.setdefault(place, request)
        asked.append(
            Request(
                action=action,
                client=client,
                round=request.round,
                incoming=first.incoming,
                proxy=request.proxy,
                closing=request.closing,
                roll=first.roll,
                keys=first.keys,
            )
        )
    return asked


def of_replies(replies: Sequence[Reply]) -> bytes:
    """Return a frame of replies."""
    header = {
        "clients": [reply.client for reply in replies],
        "errors": [reply.error for reply in replies],
    }
    return pack(
        header, [recorddict_to_proto(reply_records(r)).SerializeToString() for r in replies]
    )


def to_replies(data: bytes) -> list[Reply]:
    """Return the replies of a frame."""
    header, blobs = unpack(data)
    return [
        Reply(client=client, error=error)
        if error
        else read_reply(recorddict_from_proto(Proto.FromString(blob)))
        for client, error, blob in zip(header["clients"], header["errors"], blobs, strict=True)
    ]


def of_harvests(harvests: Sequence[Harvest], *, method: Method) -> bytes:
    """Return a frame of harvests."""
    headers: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for harvest in harvests:
        uploads = {str(client): stored(upload) for client, upload in harvest.uploads.items()}
        tensors, facts = ({}, None) if harvest.state is None else method.to_tensors(harvest.state)
        headers.append(
            {
                "answered": harvest.answered,
                "failures": harvest.failures,
                "facts": facts,
                "tallies": harvest.tallies,
                "bytes_up": harvest.bytes_up,
            }
        )
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        blobs += [save(tensors) if tensors else b"", to_bytes(uploads) if uploads else b""]
    return pack({"harvests": headers}, blobs)


def to_harvests(data: bytes, *, method: Method) -> list[Harvest]:
    """Return the harvests of a frame."""
    header, blobs = unpack(data)
    found: list[Harvest] = []
    for n, facts in enumerate(header["harvests"]):
        sums, uploads = blobs[2 * n], blobs[2 * n + 1]
        parts = from_bytes(uploads) if uploads else {}
        state = None
        if facts["facts"] is not None:
            state = method.from_tensors(load(sums), facts["facts"])
        found.append(
            Harvest(
                answered=facts["answered"],
                failures=[(client, reason) for client, reason in facts["failures"]],
                state=state,
                uploads={int(c): content_of(part) for c, part in parts.items()},  # pyright: ignore[reportArgumentType]
                tallies=Counter(facts["tallies"]),
                bytes_up=Counter(facts["bytes_up"]),
            )
        )
    return found
