"""Packed numbers come back to the bit, in the bytes they need."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.transport.codes import RecordError, narrow, packed, unpacked


@given(
    bits=st.integers(1, 16), n=st.integers(0, 9), k=st.integers(1, 9), seed=st.integers(0, 10_000)
)
def test_multiples_come_back_to_the_bit(bits, n, k, seed):
    total = 2**bits - 1
    rng = torch.Generator().manual_seed(seed)
    given_ = torch.randint(0, total + 1, (n, k), generator=rng).float() / total
    stream = packed(given_, bits)
    assert len(stream) == -(-n * k * bits // 8)
    assert torch.equal(unpacked(stream, bits, shape=(n, k)), given_)


@pytest.mark.parametrize(
    ("stream", "bits", "shape"),
    [
        (torch.zeros(3, dtype=torch.uint8), 4, (2, 2)),
        (torch.zeros(2, dtype=torch.int64), 4, (2, 2)),
        (torch.zeros(2, 1, dtype=torch.uint8), 4, (2, 2)),
        (torch.zeros(0, dtype=torch.uint8), 0, (2, 2)),
        (torch.zeros(9, dtype=torch.uint8), 17, (2, 2)),
        (torch.zeros(2, dtype=torch.uint8), 4, (-2, -2)),
        (torch.zeros(1, dtype=torch.uint8), 1, (10**9, 10**9)),
    ],
)
def test_what_is_no_such_stream_is_refused(stream, bits, shape):
    with pytest.raises(RecordError, match="probabilities of"):
        unpacked(stream, bits, shape=shape)


@pytest.mark.parametrize(
    ("largest", "kind"),
    [(255, torch.uint8), (256, torch.uint16), (65535, torch.uint16), (65536, torch.uint32)],
)
def test_the_smallest_type_is_taken(largest, kind):
    numbers = torch.tensor([[0, largest]])
    assert narrow(numbers).dtype == kind
    assert torch.equal(narrow(numbers).long(), numbers)
    assert narrow(numbers[:0]).dtype == torch.uint8
