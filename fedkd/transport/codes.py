"""Whole numbers in as few bytes as they need: class numbers, and probabilities of a few bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MOST_BITS = 16


class RecordError(ValueError):
    """Records that cannot be read: another schema, something missing or misshapen."""


def narrow(numbers: Tensor) -> Tensor:
    """Return numbers from 0 on in the smallest unsigned type that holds them all."""
    largest = int(numbers.max()) if numbers.numel() else 0
    kinds = (torch.uint8, torch.uint16, torch.uint32)
    return numbers.to(next(kind for kind in kinds if largest <= torch.iinfo(kind).max))


def widened(numbers: Tensor) -> Tensor:
    """Return whole numbers of any type as int64; RecordError for others."""
    if numbers.is_floating_point() or numbers.is_complex():
        raise RecordError(f"classes of type {numbers.dtype}, which are no numbers of classes")
    return numbers.long()


def packed(probabilities: Tensor, bits: int) -> Tensor:
    """Return multiples of 1 / (2^bits - 1) as a stream of ``bits`` bits each, uint8 ``[bytes]``."""
    units = (probabilities.detach().cpu().double() * (2**bits - 1)).round().long()
    places = np.arange(bits)
    stream = (units.numpy().reshape(-1, 1) >> places) & 1
    return torch.from_numpy(np.packbits(stream.astype(np.uint8)))


def unpacked(stream: Tensor, bits: int, *, shape: tuple[int, int]) -> Tensor:
    """Return the float32 probabilities that :func:`packed` was given.

    Raises:
        RecordError: the stream is not one of that many numbers.
    """
    count = shape[0] * shape[1]
    if not 1 <= bits <= MOST_BITS or min(shape) < 0:
        raise RecordError(f"{shape} probabilities of {bits} bits")
    if stream.dtype != torch.uint8 or stream.shape != (-(-count * bits // 8),):
        raise RecordError(f"{tuple(stream.shape)} bytes for {count} probabilities of {bits} bits")
    digits = np.unpackbits(stream.numpy(), count=count * bits).reshape(count, bits)
    units = digits.astype(np.int64) @ (1 << np.arange(bits))
    return torch.from_numpy(units).float().reshape(shape) / (2**bits - 1)
