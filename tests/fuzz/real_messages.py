"""Messages, files and frames of every kind, as a run makes them: what fuzzing starts from."""

from __future__ import annotations

import torch
from flwr.app import RecordDict
from flwr.common.serde import recorddict_to_proto

from fedkd.transport.codes import as_sent
from fedkd.transport.frames import pack
from fedkd.transport.messages import Action, Hello, Keys, Reply, Request, Roll
from fedkd.transport.records import reply_records, request_records
from fedkd.transport.stored import stored, stored_proxy, to_bytes
from fedkd.types import Consensus, Knowledge, ProxySet, ProxySource, Space, Update, Wire

N_ROWS, N_CLASSES, TEMPERATURE = 20, 10, 3.0
ROWS = torch.tensor([0, 3, 4, 11, 19])


def _knowledge(*, top: int | None = None, bits: int | None = None, told: bool = False) -> Knowledge:
    rng = torch.Generator().manual_seed(7)
    scores = torch.randn(len(ROWS), N_CLASSES, generator=rng).softmax(dim=1)
    classes = None
    if top is not None:
        scores, classes = scores.topk(top, dim=1)
    if bits is not None:
        scores = torch.eye(N_CLASSES)[: len(ROWS)]
    return Knowledge(
        rows=ROWS,
        scores=scores,
        weights=torch.linspace(0.2, 1.0, len(ROWS)) if told else torch.ones(len(ROWS)),
        space=Space.PROBS,
        temperature=TEMPERATURE,
        classes=classes,
        bits=bits,
        row_temperatures=torch.full((len(ROWS),), TEMPERATURE) if told else None,
    )


def _consensus() -> Consensus:
    return Consensus(
        rows=ROWS,
        scores=torch.full((len(ROWS), N_CLASSES), 1 / N_CLASSES),
        space=Space.PROBS,
        temperature=TEMPERATURE,
        keepers=None,
    )


def proxy_set() -> ProxySet:
    """Return a small proxy set of the shape and type of ``data=digits``."""
    return ProxySet(
        inputs=torch.arange(N_ROWS * 64, dtype=torch.uint8).reshape(N_ROWS, 1, 8, 8),
        ids=torch.arange(N_ROWS),
        owner=None,
        source=ProxySource.POOLED,
    )


def update() -> Update:
    """Return parameters of two layers."""
    return Update(arrays={"w": torch.ones(3, 4), "b": torch.zeros(3)}, weight=17.0)


def replies() -> dict[str, bytes]:
    """Return a serialised reply of every kind, by name."""
    few = as_sent(_knowledge(), Wire.BFLOAT16)
    made = {
        "probabilities": Reply(client=2, upload=_knowledge()),
        "weights and temperatures": Reply(client=2, upload=_knowledge(told=True)),
        "some classes": Reply(client=2, upload=_knowledge(top=3)),
        "few bits": Reply(client=2, upload=_knowledge(bits=3)),
        "one byte": Reply(client=2, upload=_knowledge(bits=8)),
        "half precision": Reply(client=2, upload=as_sent(_knowledge(), Wire.FLOAT16)),
        "brain floats": Reply(client=2, upload=few),
        "parameters": Reply(client=2, upload=update()),
        "contribution": Reply(client=2, contribution=proxy_set()),
        "figures": Reply(client=2, metrics={"accuracy": 0.5}),
        "a key": Reply(client=2, key=torch.arange(32, dtype=torch.uint8)),
        "masked": Reply(client=2, masked=torch.arange(12).to(torch.uint32).reshape(3, 4)),
        "hello": Reply(client=2, hello=Hello(version="1", scenario="ab", simulated=True)),
    }
    return {name: _bytes(reply_records(reply)) for name, reply in made.items()}


def requests() -> dict[str, bytes]:
    """Return a serialised request of every kind, by name."""
    keys = Keys(clients=torch.arange(2), public=torch.zeros(2, 32, dtype=torch.uint8))
    roll = Roll(members=(0, 2), rows=ROWS)
    made = {
        "round": Request(action=Action.ROUND, client=2, round=1, incoming=_consensus()),
        "proxy": Request(action=Action.ROUND, client=2, round=1, proxy=proxy_set()),
        "parameters": Request(action=Action.ROUND, client=2, round=3, incoming=update()),
        "sums": Request(action=Action.SCORES, client=2, round=3, roll=roll, keys=keys),
        "hello": Request(action=Action.HELLO, client=2, hello=Hello(version="1", scenario="ab")),
    }
    return {name: _bytes(request_records(request)) for name, request in made.items()}


def files() -> dict[str, bytes]:
    """Return a file of every kind of record, by name."""
    bits = stored(_knowledge(bits=3))
    made = {
        "uploads": {"upload.0": stored(_knowledge(told=True)), "upload.3": bits},
        "broadcast": {"broadcast": stored(_consensus())},
        "parameters": {"student": stored(update())},
        "proxy": {"proxy": stored_proxy(proxy_set())},
    }
    return {name: to_bytes(parts) for name, parts in made.items()}


def frames() -> dict[str, bytes]:
    """Return frames as worker processes get them, by name."""
    return {
        "a question": pack({"do": "ask", "clients": [0, 1], "where": [0, 0]}, [b"abc", b""]),
        "nothing": pack({}, []),
    }


def _bytes(records: RecordDict) -> bytes:
    return recorddict_to_proto(records).SerializeToString(deterministic=True)
