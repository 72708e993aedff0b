"""Requests and replies come back from their serialised form as they were, or are refused."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from fedkd.transport.codes import as_sent
from fedkd.transport.messages import Action, Reply, Request
from fedkd.transport.records import (
    RecordError,
    count_bytes,
    read_reply,
    read_request,
    reply_records,
    request_records,
)
from fedkd.types import (
    NOBODY,
    Consensus,
    Knowledge,
    ProxySet,
    ProxySource,
    Space,
    Update,
    Wire,
)


def _wire(records: RecordDict) -> RecordDict:
    """Send records through real bytes."""
    data = recorddict_to_proto(records).SerializeToString()
    return recorddict_from_proto(ProtoRecordDict.FromString(data))


def _request(request: Request) -> Request:
    return read_request(
        _wire(request_records(request)), action=request.action, client=request.client
    )


def _reply(reply: Reply) -> Reply:
    return read_reply(_wire(reply_records(reply)))


def _scores(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)


def _knowledge(rows, *, weights=None) -> Knowledge:
    n = len(rows)
    return Knowledge(
        rows=torch.tensor(rows, dtype=torch.int64),
        scores=_scores(n),
        weights=torch.ones(n) if weights is None else torch.tensor(weights),
        space=Space.PROBS,
        temperature=2.5,
    )


def _proxy(inputs: torch.Tensor, owner=None) -> ProxySet:
    return ProxySet(
        inputs=inputs,
        ids=torch.arange(100, 100 + len(inputs)),
        owner=None if owner is None else torch.tensor(owner),
        source=ProxySource.POOLED,
        version=3,
    )


@pytest.mark.parametrize(
    "knowledge",
    [
        _knowledge([0]),
        _knowledge([2, 3, 11]),
        _knowledge(list(range(17))),
        _knowledge([1, 9], weights=[0.25, 1.0]),
        _knowledge([]),
        replace(_knowledge([5]), space=Space.LOGITS, temperature=1.0),
    ],
)
def test_knowledge_comes_back(knowledge):
    reply = _reply(Reply(client=7, upload=knowledge))
    back = reply.upload
    assert reply.client == 7
    assert isinstance(back, Knowledge)
    for name in ("rows", "scores", "weights"):
        assert torch.equal(getattr(back, name), getattr(knowledge, name))
        assert getattr(back, name).dtype == getattr(knowledge, name).dtype
    assert (back.space, back.temperature) == (knowledge.space, knowledge.temperature)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": torch.tensor([[3, 0, 1, 2], [0, 1, 2, 3]])},
        {"classes": torch.tensor([[3, 700, 1, 2], [0, 1, 2, 70_000]])},
        {"row_temperatures": torch.tensor([1.5, 8.0])},
        {"bits": 3, "scores": torch.tensor([[3.0, 4.0, 0.0, 0.0], [1.0, 2.0, 2.0, 2.0]]) / 7},
        {
            "bits": 5,
            "scores": torch.tensor([[30.0], [31.0]]) / 31,
            "classes": torch.tensor([[3], [255]]),
            "row_temperatures": torch.tensor([1.5, 8.0]),
        },
    ],
)
def test_every_payload_comes_back_to_the_bit(changes):
    knowledge = replace(_knowledge([2, 9]), **changes)
    back = _reply(Reply(client=7, upload=knowledge)).upload
    assert isinstance(back, Knowledge)
    assert back.bits == knowledge.bits
    for name in ("rows", "scores", "classes", "row_temperatures"):
        sent, got = getattr(knowledge, name), getattr(back, name)
        assert (sent is None) == (got is None)
        if sent is not None:
            assert torch.equal(got, sent)
            assert got.dtype == sent.dtype


@pytest.mark.parametrize("wire", Wire)
def test_knowledge_stays_in_its_wire_format_until_somebody_sums_it(wire):
    sent = as_sent(_knowledge([2, 9]), wire)
    back = _reply(Reply(client=7, upload=sent)).upload
    assert back.wire is wire
    assert str(back.scores.dtype) == f"torch.{wire.value}"
    assert torch.equal(back.scores, sent.scores)
    assert torch.equal(back.scores, _knowledge([2, 9]).scores.to(back.scores.dtype))


@pytest.mark.parametrize("wire", Wire)
def test_a_consensus_comes_back_as_float32_however_it_travelled(wire):
    consensus = Consensus(
        rows=torch.tensor([1, 4]), scores=_scores(2), space=Space.PROBS, temperature=3, keepers=None
    )
    sent = as_sent(consensus, wire)
    back = _request(Request(action=Action.ROUND, client=0, incoming=sent)).incoming
    assert back.wire is wire
    assert back.scores.dtype == torch.float32
    assert torch.equal(back.scores, sent.scores)
    assert torch.equal(sent.scores, consensus.scores.to(getattr(torch, wire.value)).float())


def test_short_formats_halve_the_scores_and_nothing_else():
    reply = Reply(client=0, upload=_knowledge(list(range(500))))
    sizes = {
        wire: count_bytes(reply_records(replace(reply, upload=as_sent(reply.upload, wire))))
        for wire in Wire
    }
    for wire in (Wire.FLOAT16, Wire.BFLOAT16):
        saved = sizes[Wire.FLOAT32]["knowledge"] - sizes[wire]["knowledge"]
        assert abs(saved - 500 * 4 * 2) < 8  # names of types
        assert sizes[wire]["masks"] == sizes[Wire.FLOAT32]["masks"]


def test_probabilities_of_a_few_bits_and_parameters_have_formats_of_their_own():
    few = replace(_knowledge([0]), bits=1, scores=torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    update = Update(arrays={"w": torch.full((3,), 1 / 3)})
    for content in (few, update):
        assert as_sent(content, Wire.BFLOAT16) is content


@pytest.mark.parametrize("said", list(Wire))
@pytest.mark.parametrize("sent", list(Wire))
def test_a_wire_format_that_is_not_the_one_said_is_refused(said, sent):
    records = reply_records(Reply(client=0, upload=as_sent(_knowledge([0, 2]), sent)))
    records["control"] = ConfigRecord({**records["control"], "wire": said.value})
    if said is sent:
        assert read_reply(records).upload.wire is said
    else:
        with pytest.raises(RecordError, match=f"in the wire format {said.value}"):
            read_reply(records)


def test_a_consensus_brings_the_temperatures_it_was_told():
    consensus = Consensus(
        rows=torch.tensor([1, 4]),
        scores=_scores(2),
        space=Space.PROBS,
        temperature=3.0,
        keepers=None,
        row_temperatures=torch.tensor([3.0, 7.5]),
    )
    back = _request(Request(action=Action.ROUND, client=0, incoming=consensus)).incoming
    assert isinstance(back, Consensus)
    assert back.row_temperatures.tolist() == [3.0, 7.5]


@pytest.mark.parametrize("changes", [{"bits": 0}, {"bits": 60}, {"bits": 5}, {"columns": 10**12}])
def test_bits_that_do_not_fit_are_refused(changes):
    quantized = replace(_knowledge([0, 2]), bits=3, scores=torch.tensor([[1.0, 0.0]] * 2))
    records = reply_records(Reply(client=0, upload=quantized))
    records["control"] = ConfigRecord({**records["control"], **changes})
    with pytest.raises(RecordError, match=r"probabilities of|more than is read"):
        read_reply(records)


@pytest.mark.parametrize("kind", [np.float32, np.complex64])
def test_classes_that_are_no_whole_numbers_are_refused(kind):
    records = _good()
    classes = Array(np.zeros((3, 4), dtype=kind))
    records["knowledge"] = ArrayRecord({**records["knowledge"], "classes": classes})
    with pytest.raises(RecordError, match="no numbers of classes"):
        read_reply(records)


def test_bits_without_a_width_are_refused():
    with pytest.raises(RecordError, match="probabilities of"):
        read_reply(_with_header(bits=3))


def test_knowledge_does_not_say_who_else_kept_what():
    consensus = Consensus(
        rows=torch.tensor([1, 4]),
        scores=_scores(2),
        space=Space.PROBS,
        temperature=3.0,
        keepers=torch.tensor([2, 1]),
    )
    back = _request(Request(action=Action.ROUND, client=0, round=4, incoming=consensus)).incoming
    assert isinstance(back, Consensus)
    assert torch.equal(back.rows, consensus.rows)
    assert torch.equal(back.scores, consensus.scores)
    assert (back.space, back.temperature) == (Space.PROBS, 3.0)
    assert back.keepers is None


def test_an_update_comes_back_in_the_modules_order():
    arrays = {"b": torch.randn(3, 2), "a": torch.zeros(()), "empty": torch.zeros(0, 4)}
    back = _reply(Reply(client=1, upload=Update(arrays=arrays, weight=31.0))).upload
    assert isinstance(back, Update)
    assert list(back.arrays) == ["b", "a", "empty"]
    assert all(torch.equal(back.arrays[k], v) for k, v in arrays.items())
    assert back.weight == 31.0


@pytest.mark.parametrize(
    "inputs",
    [
        torch.arange(5 * 6, dtype=torch.uint8).reshape(5, 1, 2, 3),
        torch.linspace(-1, 1, 20).reshape(5, 4),
    ],
)
@pytest.mark.parametrize("owner", [None, [2, NOBODY, NOBODY, 2, NOBODY], [NOBODY] * 5])
def test_a_proxy_set_comes_back_with_ones_own_rows_only(inputs, owner):
    proxy = _proxy(inputs, owner)
    back = _request(Request(action=Action.ROUND, client=2, round=1, proxy=proxy)).proxy
    assert back is not None
    assert torch.equal(back.inputs, proxy.inputs)
    assert back.inputs.dtype == proxy.inputs.dtype
    assert torch.equal(back.ids, proxy.ids)
    assert (back.source, back.version) == (ProxySource.POOLED, 3)
    if owner is None:
        assert back.owner is None
    else:
        assert back.owner.tolist() == owner


def test_a_contribution_and_measurements_come_back():
    proxy = _proxy(torch.zeros(3, 4))
    reply = _reply(Reply(client=4, contribution=proxy, metrics={"accuracy": 0.125}))
    assert torch.equal(reply.contribution.inputs, proxy.inputs)
    assert reply.metrics == {"accuracy": 0.125}
    assert reply.upload is None


@pytest.mark.parametrize("action", list(Action))
def test_a_bare_request_comes_back(action):
    request = Request(action=action, client=5, round=9, closing=True)
    back = _request(request)
    assert (back.action, back.client, back.round, back.closing) == (action, 5, 9, True)
    assert back.incoming is None
    assert back.proxy is None


def test_what_comes_back_can_be_written_to():
    back = _reply(Reply(client=0, upload=_knowledge([0, 1]))).upload
    back.scores[0] = 0
    assert back.scores[0].tolist() == [0.0] * 4


# Refusals.


def _good() -> RecordDict:
    return reply_records(Reply(client=0, upload=_knowledge([0, 2, 9], weights=[0.5, 0.5, 0.5])))


def _with_header(**changes) -> RecordDict:
    records = _good()
    records["control"] = ConfigRecord({**records["control"], **changes})
    return records


def _with_masks(**changes) -> RecordDict:
    records = _good()
    records["masks"] = ArrayRecord({**records["masks"], **changes})
    return records


def test_the_unchanged_message_is_good():
    assert isinstance(read_reply(_good()).upload, Knowledge)


@pytest.mark.parametrize("schema", [0, 2, "1"])
def test_another_schema_is_refused_by_number(schema):
    with pytest.raises(RecordError, match=f"schema {schema!r}; this fedkd reads 1"):
        read_reply(_with_header(schema=schema))


def test_a_message_without_a_header_is_refused():
    records = _good()
    del records["control"]
    with pytest.raises(RecordError, match="schema None"):
        read_reply(records)
    with pytest.raises(RecordError, match="schema None"):
        read_request(RecordDict(), action=Action.HELLO, client=0)


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(1, dtype=torch.uint8),  # truncated
        torch.zeros(3, dtype=torch.uint8),  # too long
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(2, dtype=torch.int64),  # of another type
        torch.zeros(2, 1, dtype=torch.uint8),  # of another shape
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(RecordError, match="mask 'rows'"):
        read_reply(_with_masks(rows=Array(mask.numpy())))


@pytest.mark.parametrize("n_rows", [1, 8, 17, 10**9])
def test_a_number_of_rows_that_does_not_fit_its_mask_is_refused(n_rows):
    with pytest.raises(RecordError):
        read_reply(_with_header(n_rows=n_rows))


def test_more_or_fewer_scores_than_rows_are_refused():
    two_bits = torch.tensor([0b10100000, 0], dtype=torch.uint8)
    with pytest.raises(RecordError, match="scores for 2 rows"):
        read_reply(_with_masks(rows=Array(two_bits.numpy())))


def test_repeated_rows_cannot_be_said():
    twice = replace(_knowledge([0, 2, 9]), rows=torch.tensor([0, 2, 2]))
    with pytest.raises(RecordError, match="scores for 2 rows"):
        read_reply(reply_records(Reply(client=0, upload=twice)))


def test_knowledge_without_its_mask_is_refused():
    records = _good()
    del records["masks"]
    with pytest.raises(RecordError, match="without its row mask"):
        read_reply(records)


def test_directions_are_not_mixed():
    with pytest.raises(RecordError, match="only replies"):
        read_request(_with_header(round=1, closing=False), action=Action.ROUND, client=0)
    consensus = Consensus(
        rows=torch.tensor([0]), scores=_scores(1), space=Space.PROBS, temperature=1.0, keepers=None
    )
    records = request_records(Request(action=Action.ROUND, client=0, incoming=consensus))
    records["control"] = ConfigRecord({**records["control"], "client": 0})
    with pytest.raises(RecordError, match="only requests"):
        read_reply(records)


def test_an_array_of_python_objects_is_never_unpickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    records = _good()
    records["knowledge"] = ArrayRecord(
        {"scores": Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=buffer.getvalue())}
    )
    with pytest.raises(RecordError, match="'object' that is no plain numbers"):
        read_reply(records)
