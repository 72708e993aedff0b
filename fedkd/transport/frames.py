"""Requests, replies and harvests as bytes, for processes that share one simulation.

A frame is a JSON header and some byte strings. Nothing is pickled.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto
from safetensors.torch import load, save

from fedkd.methods.base import Method
from fedkd.transport.batch import Harvest, Node
from fedkd.transport.codes import RecordError
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.reading import parsed
from fedkd.transport.records import read_reply, read_request, reply_records, request_records
from fedkd.transport.stored import content_of, from_bytes, stored, to_bytes
from fedkd.types import Upload

Frame = tuple[dict[str, Any], list[bytes]]


def pack(header: dict[str, Any], blobs: Sequence[bytes]) -> bytes:
    """Return one byte string: lengths, header, byte strings."""
    text = json.dumps(header).encode()
    sizes = [len(text), *(len(blob) for blob in blobs)]
    return b"".join((struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes), text, *blobs))


def unpack(data: bytes) -> Frame:
    """Return what :func:`pack` put together; RecordError for anything else."""
    try:
        (count,) = struct.unpack_from("<I", data)
        sizes = struct.unpack_from(f"<{count}Q", data, 4)
    except struct.error:
        raise RecordError(f"a damaged frame of {len(data)} bytes") from None
    start, parts = 4 + 8 * count, list[bytes]()
    if not count or start + sum(sizes) != len(data):
        raise RecordError(f"a damaged frame: {len(data)} bytes for {count} parts")
    for size in sizes:
        parts.append(data[start : start + size])
        start += size
    return parsed(parts[0]), parts[1:]


def of_requests(
    shares: Mapping[int, Sequence[Request]], facts: Mapping[str, Any]
) -> dict[int, Frame]:
    """Return a frame for each share of some requests of one action.

    What several requests hold in common is serialised once; it is in a frame once, and the same
    byte string in all frames.
    """
    made: dict[tuple[int, ...], bytes] = {}
    frames: dict[int, Frame] = {}
    for n, requests in shares.items():
        places: dict[tuple[int, ...], int] = {}
        where: list[int] = []
        for request in requests:
            same = (id(request.incoming), id(request.proxy), id(request.roll), id(request.keys))
            if same not in made:
                records = recorddict_to_proto(request_records(request))
                made[same] = records.SerializeToString()
            where.append(places.setdefault(same, len(places)))
        header = {
            "action": requests[0].action.value,
            "clients": [request.client for request in requests],
            "where": where,
        }
        frames[n] = (header | dict(facts), [made[same] for same in places])
    return frames


def to_requests(header: dict[str, Any], blobs: Sequence[bytes]) -> list[Request]:
    """Return the requests of a frame; requests that shared content share it again."""
    action = Action(header["action"])
    asked: list[Request] = []
    read: dict[int, Request] = {}
    for client, place in zip(header["clients"], header["where"], strict=True):
        first = read.get(place)
        if first is None or first.proxy is not None:  # a proxy set names its reader's own rows
            records = recorddict_from_proto(Proto.FromString(blobs[place]))
            request = read_request(records, action=action, client=client)
            first = read.setdefault(place, request)
            proxy = request.proxy
        else:
            proxy = None
        asked.append(
            Request(
                action=action,
                client=client,
                round=first.round,
                incoming=first.incoming,
                proxy=proxy,
                closing=first.closing,
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


def of_harvest(harvest: Harvest, *, method: Method) -> bytes:
    """Return a frame of a harvest."""
    states: list[tuple[Node, dict[str, Any]]] = []
    blobs = [_stored(harvest.uploads), _stored(harvest.late)]
    for node, state in harvest.states.items():
        tensors, facts = method.to_tensors(state)
        states.append((node, facts))
        blobs.append(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    header = {
        "answered": harvest.answered,
        "failures": harvest.failures,
        "states": states,
        "tallies": harvest.tallies,
        "bytes_up": harvest.bytes_up,
        "refused": harvest.refused,
        "waited": harvest.waited,
        "spent": list(harvest.spent.items()),
    }
    return pack(header, blobs)


def to_harvest(data: bytes, *, method: Method) -> Harvest:
    """Return the harvest of a frame."""
    header, (uploads, late, *sums) = unpack(data)
    states: dict[Node, Any] = {}
    for ((height, number), facts), tensors in zip(header["states"], sums, strict=True):
        states[height, number] = method.from_tensors(load(tensors), facts)
    return Harvest(
        answered=header["answered"],
        failures=[(client, reason) for client, reason in header["failures"]],
        states=states,
        uploads=_uploads(uploads),
        tallies=Counter(header["tallies"]),
        bytes_up=Counter(header["bytes_up"]),
        refused=[(client, reason) for client, reason in header["refused"]],
        late=_uploads(late),
        waited=header["waited"],
        spent={client: (seconds, joules) for client, (seconds, joules) in header["spent"]},
    )


def _stored(uploads: Mapping[int, Upload]) -> bytes:
    parts = {str(client): stored(upload) for client, upload in uploads.items()}
    return to_bytes(parts) if parts else b""


def _uploads(data: bytes) -> dict[int, Upload]:
    parts = from_bytes(data) if data else {}
    return {int(client): content_of(part) for client, part in parts.items()}  # pyright: ignore[reportReturnType]
