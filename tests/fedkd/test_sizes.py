"""Worked-out sizes are those of the bytes themselves, whatever a message holds."""

from __future__ import annotations

import time

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.transport.codes import as_sent
from fedkd.transport.messages import Action, Hello, Keys, Reply, Request, Roll
from fedkd.transport.records import count_bytes, reply_records, request_records
from fedkd.transport.sizes import message_size
from fedkd.types import NOBODY, Consensus, Knowledge, ProxySet, ProxySource, Space, Update, Wire

counts = st.one_of(st.integers(0, 20), st.sampled_from([127, 128, 1000, 20_000]))
reals = st.floats(allow_nan=False, width=32)
wires = st.sampled_from(list(Wire))


@st.composite
def _rows(draw):
    """Ascending rows, from none to thousands."""
    n = draw(counts)
    return torch.arange(n) * draw(st.integers(1, 9)) + draw(st.sampled_from([0, 1, 300]))


@st.composite
def _knowledge(draw):
    rows = draw(_rows())
    n, k = len(rows), draw(st.integers(1, 7))
    bits = draw(st.none() | st.integers(1, 16))
    classes = None
    if draw(st.booleans()):
        most = draw(st.sampled_from([0, 255, 256, 65_535, 65_536]))
        classes = torch.full((n, k), most) if draw(st.booleans()) else torch.arange(k)
    weights = torch.ones(n)
    if draw(st.booleans()):
        weights[: n // 2] = 0.5
    knowledge = Knowledge(
        rows=rows,
        scores=torch.rand(n, k).round() if bits else torch.rand(n, k),
        weights=weights,
        space=draw(st.sampled_from(list(Space))),
        temperature=draw(reals),
        classes=classes,
        bits=bits,
        row_temperatures=draw(st.sampled_from([None, torch.ones(n)])),
    )
    return as_sent(knowledge, draw(wires))


@st.composite
def _consensus(draw):
    rows = draw(_rows())
    consensus = Consensus(
        rows=rows,
        scores=torch.rand(len(rows), draw(st.integers(1, 120))),
        space=draw(st.sampled_from(list(Space))),
        temperature=draw(reals),
        keepers=draw(st.sampled_from([None, torch.ones(len(rows), dtype=torch.int64)])),
        row_temperatures=draw(st.sampled_from([None, torch.ones(len(rows))])),
    )
    return as_sent(consensus, draw(wires))


real = (torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128)
kinds = st.sampled_from(
    [*real, torch.uint8, torch.int16, torch.uint16, torch.int64, torch.bool],
)
shapes = st.lists(st.integers(0, 5), max_size=6).map(tuple)
names = st.text(max_size=200)
updates = st.builds(
    lambda arrays, weight: Update(
        arrays={name: torch.zeros(shape, dtype=kind) for name, (shape, kind) in arrays.items()},
        weight=weight,
    ),
    st.dictionaries(names, st.tuples(shapes, kinds), max_size=5),
    reals,
)


@st.composite
def _proxy(draw):
    n = draw(counts)
    shape = draw(st.sampled_from([(3,), (1, 2, 2), (3, 1, 1, 1)]))
    return ProxySet(
        inputs=torch.zeros(n, *shape, dtype=draw(kinds)),
        ids=torch.arange(n),
        owner=draw(st.sampled_from([None, torch.full((n,), NOBODY), torch.zeros(n).long()])),
        source=draw(st.sampled_from(list(ProxySource))),
        version=draw(st.integers(0, 10**6)),
    )


signed = st.integers(-300, 300) | st.integers(-(2**63), 2**63 - 1)
unsigned = st.integers(0, 300) | st.integers(0, 2**64 - 1)
rolls = st.builds(
    Roll,
    members=(st.lists(signed, max_size=6) | st.lists(unsigned, max_size=6)).map(tuple),
    attempt=st.integers(0, 10**4),
    rows=st.none() | _rows(),
)
keys = st.integers(0, 40).map(
    lambda n: Keys(clients=torch.arange(n), public=torch.zeros(n, 32, dtype=torch.uint8))
)
hellos = st.builds(Hello, version=names, scenario=names, simulated=st.booleans())
requests = st.builds(
    Request,
    action=st.sampled_from(list(Action)),
    client=st.just(0),
    round=st.integers(0, 10**9),
    incoming=st.none() | _consensus() | updates,
    proxy=st.none() | _proxy(),
    closing=st.booleans(),
    roll=st.none() | rolls,
    keys=st.none() | keys,
    hello=st.none() | hellos,
)
replies = st.builds(
    Reply,
    client=signed | unsigned,
    upload=st.none() | _knowledge() | updates,
    contribution=st.none() | _proxy(),
    metrics=st.dictionaries(names, reals, max_size=5),
    key=st.sampled_from([None, torch.zeros(32, dtype=torch.uint8)]),
    masked=st.none() | counts.map(lambda n: torch.zeros(n, 11, dtype=torch.uint32)),
    hello=st.none() | hellos,
)


@settings(max_examples=300, deadline=None)
@given(requests)
def test_requests_have_the_size_that_is_worked_out(request):
    assert message_size(request) == count_bytes(request_records(request))


@settings(max_examples=300, deadline=None)
@given(replies)
def test_replies_have_the_size_that_is_worked_out(reply):
    assert message_size(reply) == count_bytes(reply_records(reply))


def test_a_reply_is_sized_without_looking_at_its_scores():
    def seconds(n_classes: int) -> float:
        scores = torch.zeros(5000, n_classes)
        ones = torch.ones(5000)
        upload = Knowledge(rows=torch.arange(5000), scores=scores, weights=ones, space=Space.LOGITS)
        reply, best = Reply(client=1, upload=upload), 1.0
        for _ in range(200):
            started = time.process_time()
            message_size(reply)
            best = min(best, time.process_time() - started)
        return best

    assert seconds(500) < 2e-4  # 10 MB; copying them alone takes ten times as long
