"""How many bytes a message takes, worked out from shapes and facts, without making it.

A grid that keeps its messages in memory counts with this what a network would carry. Records are
protocol buffers (https://protobuf.dev/programming-guides/encoding), arrays in them NumPy files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache

import torch
from torch import Tensor

from fedkd.flat import FlatArrays, Layout
from fedkd.transport.codes import WIRE_TYPES, narrow_type, packed_bytes
from fedkd.transport.content import MASKS, all_ones, kind_of
from fedkd.transport.messages import Reply, Request, Roll
from fedkd.transport.reading import Header
from fedkd.transport.records import (
    CONTROL,
    KEYS,
    MASKED,
    METRICS,
    ROLL,
    reply_header,
    request_header,
    rows_in,
)
from fedkd.types import Broadcast, Knowledge, ProxySet, Update, Upload

STYPE = len("numpy.ndarray")
HEADER_TEXT = len("{'descr': '', 'fortran_order': False, 'shape': , }\n")
MAGIC, ALIGNED, GROWTH = 10, 64, 21
"""A NumPy file opens with 10 bytes and a text, padded to a multiple of 64, in which the first
dimension has room for 21 digits."""
UNSIGNED = 2**63
"""Whole numbers from here on are sent without a sign."""
RECENT = 4096
"""Sizes that are remembered: messages of a round look alike."""

Fact = int | float | str | bool | list[int]


def message_size(message: Request | Reply) -> dict[str, int]:
    """Return what ``count_bytes`` finds in the records of a message, by kind."""
    return _of_request(message) if isinstance(message, Request) else _of_reply(message)


def _of_request(request: Request) -> dict[str, int]:
    header = request_header(request)
    arrays = _content(request.incoming, header) | _proxy(request.proxy)
    facts: dict[str, Mapping[str, Fact]] = {CONTROL: header}
    if request.roll is not None:
        facts[ROLL] = _roll(request.roll)
        if request.roll.rows is not None:
            arrays[MASKED] = _entry("rows", _mask(rows_in(request.roll)))
    if request.keys is not None:
        clients, public = _array(request.keys.clients), _array(request.keys.public)
        arrays[KEYS] = _entry("clients", clients) + _entry("public", public)
    return _with_control(arrays, facts)


def _of_reply(reply: Reply) -> dict[str, int]:
    upload = reply.upload
    if isinstance(upload, Update) and isinstance(upload.arrays, FlatArrays):
        bare = reply.contribution is reply.key is reply.masked is reply.hello is None
        if bare and not reply.metrics and isinstance(upload.weight, float):
            return dict(_of_flat_update(upload.arrays.layout, reply.client))
    return _of_any_reply(reply)


@lru_cache(maxsize=RECENT)
def _of_flat_update(layout: Layout, client: int) -> dict[str, int]:
    """Return the sizes of a reply with nothing but such an update; a float takes 8 bytes."""
    arrays = FlatArrays(torch.empty(layout.size, device="meta"), layout)
    return _of_any_reply(Reply(client=client, upload=Update(arrays=arrays)))


def _of_any_reply(reply: Reply) -> dict[str, int]:
    header = reply_header(reply)
    arrays = _content(reply.upload, header) | _proxy(reply.contribution)
    facts: dict[str, Mapping[str, Fact]] = {CONTROL: header}
    if reply.key is not None:
        arrays[KEYS] = _entry("public", _array(reply.key))
    if reply.masked is not None:
        arrays[MASKED] = _entry("words", _array(reply.masked))
    if reply.metrics:
        facts[METRICS] = reply.metrics
    return _with_control(arrays, facts)


def _with_control(
    arrays: dict[str, int], facts: Mapping[str, Mapping[str, Fact]]
) -> dict[str, int]:
    """Count all that is in no array as control: facts, and what surrounds the records."""
    control = sum(_entry(kind, size) - size for kind, size in arrays.items())
    for name, values in facts.items():
        size = sum(_entry(key, _fact(value)) for key, value in values.items())
        control += _entry(name, size)
    arrays[CONTROL] = control
    return arrays


def _content(content: Upload | Broadcast | None, header: Header) -> dict[str, int]:
    if content is None:
        return {}
    if isinstance(content, Update):
        if isinstance(content.arrays, FlatArrays):
            return {"update": _laid_out(content.arrays.layout)}
        return {"update": sum(_entry(name, _array(t)) for name, t in content.arrays.items())}
    shape, told = content.scores.shape, content.row_temperatures
    size = 0 if told is None else _entry("temperatures", _array(told))
    if isinstance(content, Knowledge) and content.bits is not None:
        stream = packed_bytes(content.scores.numel(), content.bits)
        size += _entry("scores", _file(torch.uint8, (stream,)))
    else:
        size += _entry("scores", _file(WIRE_TYPES[content.wire], shape))
    masks = _entry("rows", _mask(int(header["n_rows"])))
    if isinstance(content, Knowledge) and content.classes is not None:
        classes = content.classes
        size += _entry("classes", _file(narrow_type(classes), classes.shape))
    if isinstance(content, Knowledge) and not all_ones(content.weights):
        masks += _entry("weights", _array(content.weights))
    return {kind_of(content): size, MASKS: masks}


@lru_cache(maxsize=RECENT)
def _laid_out(layout: Layout) -> int:
    """Return the size of all arrays of a layout."""
    return sum(_entry(part.name, _file(torch.float32, part.shape)) for part in layout.parts)


def _proxy(proxy: ProxySet | None) -> dict[str, int]:
    if proxy is None:
        return {}
    own = 0 if proxy.owner is None else _entry("own", _mask(len(proxy)))
    return {
        "proxy": _entry("inputs", _array(proxy.inputs)) + _entry("ids", _array(proxy.ids)) + own
    }


def _roll(roll: Roll) -> dict[str, Fact]:
    return {"members": list(roll.members), "attempt": roll.attempt, "n_rows": rows_in(roll)}


def _mask(n_rows: int) -> int:
    return _file(torch.uint8, (packed_bytes(n_rows, 1),))


def _array(tensor: Tensor) -> int:
    return _file(tensor.dtype, tensor.shape)


@lru_cache(maxsize=RECENT)
def _file(kind: torch.dtype, shape: tuple[int, ...]) -> int:
    """Return the size of Flower's ``Array`` message around a NumPy file."""
    around, description, n_bytes = _named(kind)
    text = HEADER_TEXT + description + len(str(tuple(shape)))
    dimensions = 0
    for size in shape:
        n_bytes *= size
        dimensions += _varint(size)
    if shape:
        text += GROWTH - len(str(shape[0]))
        dimensions = _field(dimensions)
    # NumPy pads by at least one byte.
    data = n_bytes + ((MAGIC + text) // ALIGNED + 1) * ALIGNED
    return around + dimensions + _field(data)


@cache
def _named(kind: torch.dtype) -> tuple[int, int, int]:
    """Return the size of the two names in an array, of NumPy's own, and of one number."""
    kind = torch.uint16 if kind is torch.bfloat16 else kind  # which stands for it
    name = len(str(kind).removeprefix("torch."))
    return _field(name) + _field(STYPE), len(f"<f{kind.itemsize}"), kind.itemsize


@lru_cache(maxsize=RECENT)
def _entry(key: str, size: int) -> int:
    """Return the size of one entry of a record: a name, and a message of ``size`` bytes."""
    name = _field(len(key.encode())) if key else 0
    return _field(name + _field(size))


def _fact(value: Fact) -> int:
    if isinstance(value, bool):
        return 2
    if isinstance(value, int):
        return 1 + _whole(value, signed=value < UNSIGNED)
    if isinstance(value, float):
        return 9
    if isinstance(value, str):
        return _field(len(value.encode()))
    signed = all(number < UNSIGNED for number in value)
    numbers = sum(_whole(number, signed=signed) for number in value)
    return 1 + _field(_field(numbers) if value else 0)  # the tag of a list takes two bytes


def _whole(number: int, *, signed: bool) -> int:
    """Return the bytes of a whole number; signs alternate, 0, -1, 1, -2, ..., where there are."""
    if not signed:
        return _varint(number)
    return _varint(2 * number if number >= 0 else -2 * number - 1)


def _field(size: int) -> int:
    """Return the size of a field with a one-byte tag that holds ``size`` bytes."""
    return size + 2 if size < 128 else 1 + _varint(size) + size


def _varint(number: int) -> int:
    return (number.bit_length() + 6) // 7 or 1
