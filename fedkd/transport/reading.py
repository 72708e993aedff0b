"""What a message must pass before anything of it is read: declared sizes first, then the bytes.

Whatever arrives becomes a sound record or a :class:`RecordError`. Nothing is unpickled, no array
takes more memory than the bytes that came, and what grows on reading (bit masks, probabilities of
a few bits) has a limit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from fedkd.transport.codes import RecordError

Header = dict[str, int | float | str | bool]
Choice = TypeVar("Choice", bound=StrEnum)

_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"(?P<text>\{'descr': '(?P<kind>\|[ui]1|<[ui][248]|<f[248]|<c(?:8|16))', "
    rb"'fortran_order': False, 'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\), \} *\n)",
    re.DOTALL,
)
"""How a NumPy file of the numbers that we send begins; a text, not an expression to evaluate."""
_MOST_DIMENSIONS, _LONGEST_HEAD, _LONGEST_TEXT = 8, 512, 200
_WIDEST = 8
"""Bytes of the largest number that anything is widened to."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that one message may hold.

    Attributes:
        message_bytes: all arrays together, as they came.
        rows: of a proxy set, or of scores; inputs as well.
        classes: columns of scores.
        decoded_bytes: what one array may come to in memory.
    """

    message_bytes: int = 2**31 - 1
    rows: int = 2**24
    classes: int = 2**20
    decoded_bytes: int = 2**31 - 1

    @staticmethod
    def of_knowledge(*, n_rows: int, n_classes: int) -> Limits:
        """Return what an upload about a known proxy set can need, masked sums included."""
        a_row = (n_classes + 1) * 2 * _WIDEST
        size = n_rows * a_row + 2**20
        return Limits(message_bytes=size, rows=n_rows, classes=n_classes, decoded_bytes=size)


def arrays_of(records: RecordDict) -> dict[str, ArrayRecord]:
    """Return the array records; Flower's own view of them checks every type again."""
    return {name: record for name, record in records.items() if isinstance(record, ArrayRecord)}


def check_sizes(records: RecordDict, limits: Limits) -> None:
    """Refuse a message of too many bytes, unread.

    Raises:
        RecordError: its arrays are more than ``limits`` allow.
    """
    arrays = [array for record in arrays_of(records).values() for array in record.values()]
    size = sum(len(array.data) for array in arrays)
    if size > limits.message_bytes:
        raise RecordError(f"{size} bytes of arrays; at most {limits.message_bytes} are read")


def tensor_from(array: Array) -> Tensor:
    """Return an array that came, copied; the memory it takes is that of its bytes.

    Raises:
        RecordError: it is no NumPy file of plain numbers, or its shape, its type and its bytes
            contradict each other.
    """
    found = _NPY.match(array.data[:_LONGEST_HEAD])
    if array.stype != "numpy.ndarray" or found is None:
        raise RecordError(f"an array of the type {plain(array.dtype)!r} that is no plain numbers")
    start, kind = found.end(), np.dtype(found["kind"].decode())
    shape = tuple(int(size) for size in found["shape"].split(b",") if size.strip())
    length = int.from_bytes(found["length"], "little")
    if shape != tuple(array.shape) or kind.name != array.dtype or length != len(found["text"]):
        raise RecordError("an array of another shape or type than its message says")
    least = math.prod(max(size, 1) for size in shape) * kind.itemsize
    count = math.prod(shape)
    if len(shape) > _MOST_DIMENSIONS or count * kind.itemsize != len(array.data) - start:
        raise RecordError(f"{len(array.data) - start} bytes for an array of {shape}")
    if not count and least > Limits.decoded_bytes:
        raise RecordError(f"an empty array of {shape}")
    numbers = np.frombuffer(array.data, dtype=kind, count=count, offset=start) if count else []
    return torch.from_numpy(np.array(numbers, dtype=kind).reshape(shape))


def whole(header: Mapping[str, Any], name: str, *, most: int = 2**63 - 1, of: str = "") -> int:
    """Return a whole number from 0 to ``most``; RecordError when there is no such fact.

    ``of`` goes before the name in the message.
    """
    value = header.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise RecordError(f"{of}{name} is {_said(value)}, not a whole number from 0 to {most}")
    return value


def number(header: Mapping[str, Any], name: str) -> float:
    """Return any number; RecordError when there is no such fact."""
    value = header.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise RecordError(f"{name} is {_said(value)}, not a number")
    return float(value)


def text(header: Mapping[str, Any], name: str) -> str:
    """Return a text; RecordError when there is no such fact."""
    value = header.get(name)
    if not isinstance(value, str):
        raise RecordError(f"{name} is {_said(value)}, not a text")
    return value


def truth(header: Mapping[str, Any], name: str) -> bool:
    """Return true or false; RecordError when there is no such fact."""
    value = header.get(name)
    if not isinstance(value, bool):
        raise RecordError(f"{name} is {_said(value)}, neither true nor false")
    return value


def one_of(kinds: type[Choice], header: Mapping[str, Any], name: str) -> Choice:
    """Return one of an enumeration's members; RecordError when the fact is none of them."""
    value = header.get(name)
    for kind in kinds:
        if kind.value == value:
            return kind
    raise RecordError(f"{name} is {_said(value)}; give one of {[kind.value for kind in kinds]}")


def parsed(data: bytes) -> dict[str, Any]:
    """Return a JSON object; RecordError for anything else, however deep it is nested."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{len(data)} bytes that are no JSON ({type(error).__name__})") from None
    if not isinstance(tree, dict):
        raise RecordError(f"{len(data)} bytes of JSON that are no object")
    return tree


def plain(words: str) -> str:
    """Return a stranger's words as they can be printed: ASCII, on one line, and not many."""
    printable = "".join(c if c.isascii() and c.isprintable() else "?" for c in words)
    cut = printable[:_LONGEST_TEXT]
    return cut if len(words) <= _LONGEST_TEXT else f"{cut}..."


def _said(value: object) -> str:
    return "missing" if value is None else plain(repr(value))
