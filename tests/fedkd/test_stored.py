"""Records survive a file bit by bit, in as few bytes as that takes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fedkd.results import MaskedUploads, Traffic
from fedkd.transport.codes import RecordError, as_sent
from fedkd.transport.stored import (
    from_bytes,
    parts_of,
    proxy_of,
    stored,
    stored_proxy,
    to_bytes,
    traffic_of,
)
from fedkd.types import Consensus, Knowledge, ProxySet, ProxySource, Space, Update, Wire


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _knowledge(**changes) -> Knowledge:
    whole = Knowledge(
        rows=torch.tensor([1, 4, 70_000]),
        scores=torch.softmax(torch.randn(3, 5, generator=_rng()), dim=1),
        weights=torch.ones(3),
        space=Space.PROBS,
        temperature=3.1,
    )
    return dataclasses.replace(whole, **changes)


def same(one, other) -> bool:
    """Return whether two records or mappings are equal in every bit, type and order."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if dataclasses.is_dataclass(one):
        names = [f.name for f in dataclasses.fields(one)]
        return type(one) is type(other) and all(
            same(getattr(one, n), getattr(other, n)) for n in names
        )
    return one == other


EIGHTHS = (torch.randint(256, (3, 5), generator=_rng()).float()) / 255
RECORDS = {
    "probabilities": _knowledge(),
    "logits": _knowledge(space=Space.LOGITS, scores=torch.randn(3, 5, generator=_rng()) * 1e4),
    "weights": _knowledge(weights=torch.tensor([0.1, 1.0, 0.25])),
    "bits": _knowledge(scores=EIGHTHS, bits=8),
    "a format of 16 bits": _knowledge(scores=EIGHTHS.half().float(), wire=Wire.FLOAT16),
    "a format of few digits": _knowledge(scores=EIGHTHS.bfloat16().float(), wire=Wire.BFLOAT16),
    "bits that are not quite such": _knowledge(scores=EIGHTHS + 1e-6, bits=8),
    "some classes": _knowledge(classes=torch.tensor([[0, 1, 2, 3, 9]] * 3)),
    "row temperatures": _knowledge(row_temperatures=torch.tensor([1.0, 2.5, 7.0])),
    "nothing": _knowledge(
        rows=torch.zeros(0, dtype=torch.int64), scores=torch.zeros(0, 5), weights=torch.ones(0)
    ),
    "parameters": Update(
        arrays={"z.weight": torch.randn(2, 2, generator=_rng()), "a": torch.tensor(7)}, weight=41.0
    ),
    "consensus": Consensus(
        rows=torch.tensor([0, 300]),
        scores=torch.rand(2, 5, generator=_rng()),
        space=Space.PROBS,
        temperature=2.0,
        keepers=torch.tensor([1, 9]),
        row_temperatures=torch.tensor([1.5, 2.0]),
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_comes_back_bit_by_bit(name):
    record = RECORDS[name]
    sent = name in {"parameters", "consensus"}
    traffic = Traffic(broadcast=record) if sent else Traffic(uploads={30: record, 3: record})
    parts = parts_of(traffic)
    back = traffic_of(from_bytes(to_bytes(parts)))
    found = [back.broadcast] if sent else [back.uploads[30], back.uploads[3]]
    assert all(same(record, one) for one in found)
    again = parts_of(back)
    assert {k: v.sha256() for k, v in again.items()} == {k: v.sha256() for k, v in parts.items()}


def test_few_bits_take_few_bytes():
    assert stored(RECORDS["bits"]).tensors["scores"].dtype == torch.uint8
    assert stored(RECORDS["bits that are not quite such"]).tensors["scores"].dtype == torch.float32
    assert stored(_knowledge(rows=torch.tensor([1, 4, 255]))).tensors["rows"].dtype == torch.uint8
    assert "weights" not in stored(_knowledge()).tensors


def test_masked_words_come_back():
    words = {c: torch.tensor([[c, 2**32 - 1]], dtype=torch.uint32) for c in (0, 2, 10)}
    traffic = Traffic(masked=MaskedUploads(rows=torch.tensor([5]), words=words))
    back = traffic_of(from_bytes(to_bytes(parts_of(traffic)))).masked
    assert back is not None
    assert back.rows.tolist() == [5]
    assert {c: w.tolist() for c, w in back.words.items()} == {
        c: [[c, 2**32 - 1]] for c in (0, 2, 10)
    }
    assert all(w.dtype == torch.uint32 for w in back.words.values())


@pytest.mark.parametrize("owner", [None, torch.tensor([2, 0])])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_a_proxy_set_comes_back(owner, dtype):
    proxy = ProxySet(
        inputs=torch.arange(8).reshape(2, 4).to(dtype),
        ids=torch.tensor([9, 4]),
        owner=owner,
        source=ProxySource.EXTERNAL if owner is None else ProxySource.POOLED,
        version=2,
        rows_per_input=4,
    )
    data = to_bytes({"proxy": stored_proxy(proxy)})
    assert same(proxy_of(from_bytes(data)["proxy"]), proxy)


def test_what_is_stored_no_longer_changes():
    weights = torch.zeros(3)
    parts = stored(Update(arrays={"w": weights, "tied": weights}))
    weights += 1
    assert parts.tensors["w"].tolist() == [0, 0, 0]
    assert to_bytes({"student": parts}), "tied parameters can be written"


@pytest.mark.parametrize(
    "change",
    [{"scores": EIGHTHS}, {"temperature": 3.0}, {"rows": torch.tensor([1, 5, 70_000])}],
)
def test_the_hash_is_about_all_of_it(change):
    assert stored(_knowledge(**change)).sha256() != stored(_knowledge()).sha256()


def test_a_newer_schema_is_refused():
    data = to_bytes({"upload.0": stored(_knowledge())})
    newer = data.replace(rb"\"schema\": 1", rb"\"schema\": 2")
    assert newer != data
    with pytest.raises(RecordError, match="schema 2"):
        from_bytes(newer)


@pytest.mark.parametrize("wire", [Wire.FLOAT16, Wire.BFLOAT16])
def test_short_formats_are_stored_as_such_and_read_as_float32(wire):
    sent = as_sent(_knowledge(), wire)
    parts = stored(sent)
    assert parts.tensors["scores"].dtype == sent.scores.dtype
    assert len(parts.sha256()) == 64
    assert parts.sha256() != stored(_knowledge()).sha256()
    (back,) = traffic_of(from_bytes(to_bytes({"upload.0": parts}))).uploads.values()
    assert torch.equal(back.scores, sent.scores.float())
    assert stored(back).sha256() == parts.sha256()
