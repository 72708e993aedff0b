"""Numbers in as few bytes as they need: classes, probabilities of a few bits, shorter floats."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fedkd.types import Broadcast, Consensus, Knowledge, Upload, Wire

MOST_BITS = 16
BACKWARDS = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(-1, 8)[:, ::-1])
"""Every byte with its bits in the other order: a stream begins with a number's last digit."""

WIRE_TYPES = {
    Wire.FLOAT32: torch.float32,
    Wire.FLOAT16: torch.float16,
    Wire.BFLOAT16: torch.bfloat16,
}
"""What scores are in memory when they have just arrived."""

WIRE_ROUNDING = {Wire.FLOAT32: 0.0, Wire.FLOAT16: 2.0**-11, Wire.BFLOAT16: 2.0**-8}
"""How far, relatively, a number may be moved by a format; so far may a row miss a sum of one."""

Content = TypeVar("Content", bound=Upload | Broadcast)


class RecordError(ValueError):
    """Records that cannot be read: another schema, something missing or misshapen."""


def as_sent(content: Content, wire: Wire) -> Content:
    """Return content as its reader will have it: scores rounded to the nearest of the format.

    Parameters pass unchanged, and so do probabilities of a few bits, which are shorter still.
    """
    kind = WIRE_TYPES[wire]
    if isinstance(content, Knowledge) and content.bits is None:
        return replace(content, scores=content.scores.to(kind), wire=wire)
    if isinstance(content, Consensus):
        return replace(content, scores=content.scores.to(kind).float(), wire=wire)
    return content


def floats(scores: Tensor, wire: Wire) -> Tensor:
    """Return scores as the array that travels; NumPy knows no bfloat16, so uint16 stands for it."""
    short = scores.detach().to(WIRE_TYPES[wire])
    return short.contiguous().view(torch.uint16) if wire is Wire.BFLOAT16 else short


def floats_from(array: Tensor, wire: Wire) -> Tensor:
    """Return the scores that :func:`floats` was given, in the format's own type.

    Raises:
        RecordError: the array is of another type than the format's.
    """
    if wire is Wire.BFLOAT16 and array.dtype == torch.uint16:
        return array.view(torch.bfloat16)
    if wire is not Wire.BFLOAT16 and array.dtype == WIRE_TYPES[wire]:
        return array
    raise RecordError(f"scores of type {array.dtype} in the wire format {wire.value}")


def narrow(numbers: Tensor) -> Tensor:
    """Return numbers from 0 on in the smallest unsigned type that holds them all."""
    return numbers.to(narrow_type(numbers))


def narrow_type(numbers: Tensor) -> torch.dtype:
    """Return the type that :func:`narrow` takes."""
    largest = int(numbers.max()) if numbers.numel() else 0
    kinds = (torch.uint8, torch.uint16, torch.uint32)
    return next(kind for kind in kinds if largest <= torch.iinfo(kind).max)


def widened(numbers: Tensor) -> Tensor:
    """Return whole numbers of any type as int64; RecordError for others."""
    if numbers.is_floating_point() or numbers.is_complex():
        raise RecordError(f"classes of type {numbers.dtype}, which are no numbers of classes")
    return numbers.long()


def packed(probabilities: Tensor, bits: int) -> Tensor:
    """Return multiples of 1 / (2^bits - 1) as a stream of ``bits`` bits each, uint8 ``[bytes]``."""
    exact = (probabilities.detach().cpu().double() * (2**bits - 1)).round()
    units = exact.numpy().reshape(-1, 1).astype("<u2")
    if bits % 8 == 0:
        return torch.from_numpy(BACKWARDS[units.view(np.uint8)[:, : bits // 8].ravel()])
    digits = np.unpackbits(units.view(np.uint8), axis=1, bitorder="little")[:, :bits]
    return torch.from_numpy(np.packbits(digits))


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes :func:`packed` makes of so many numbers."""
    return -(-count * bits // 8)


def unpacked(stream: Tensor, bits: int, *, shape: tuple[int, int]) -> Tensor:
    """Return the float32 probabilities that :func:`packed` was given.

    Raises:
        RecordError: the stream is not one of that many numbers.
    """
    count = shape[0] * shape[1]
    if not 1 <= bits <= MOST_BITS or min(shape) < 0:
        raise RecordError(f"{shape} probabilities of {bits} bits")
    if stream.dtype != torch.uint8 or stream.shape != (packed_bytes(count, bits),):
        raise RecordError(f"{tuple(stream.shape)} bytes for {count} probabilities of {bits} bits")
    if bits % 8 == 0:
        units = BACKWARDS[stream.numpy()].view(np.uint8 if bits == 8 else "<u2")
    else:
        digits = np.unpackbits(stream.numpy(), count=count * bits).reshape(count, bits)
        units = digits.astype(np.float32) @ (1 << np.arange(bits)).astype(np.float32)
    return torch.from_numpy(units.astype(np.float32)).reshape(shape) / (2**bits - 1)
