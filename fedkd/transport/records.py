"""Requests and replies as Flower records, and how many bytes each kind of them takes."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto

from fedkd.transport.codes import RecordError
from fedkd.transport.content import (
    content_header,
    put_content,
    rows_of,
    take_content,
    to_array,
    to_mask,
    to_tensor,
)
from fedkd.transport.messages import Action, Hello, Keys, Reply, Request, Roll
from fedkd.transport.reading import (
    Header,
    Limits,
    arrays_of,
    check_sizes,
    one_of,
    text,
    truth,
    whole,
)
from fedkd.types import NOBODY, SCHEMA, Consensus, Knowledge, ProxySet, ProxySource

CONTROL, METRICS = "control", "metrics"
KEYS, MASKED, ROLL = "keys", "masked", "roll"
ANY = Limits()
"""What is read of a message while nothing is known of what it should be about."""


def request_header(request: Request) -> Header:
    """Return the facts of a request, which travel beside its arrays."""
    header: Header = {"schema": SCHEMA, "round": request.round, "closing": request.closing}
    facts = _proxy_header(request.proxy) | content_header(request.incoming)
    return header | facts | _hello_header(request.hello)


def reply_header(reply: Reply) -> Header:
    """Return the facts of a reply, which travel beside its arrays."""
    header: Header = {"schema": SCHEMA, "client": reply.client}
    facts = _proxy_header(reply.contribution) | content_header(reply.upload)
    return header | facts | _hello_header(reply.hello)


def rows_in(roll: Roll) -> int:
    """Return how many rows the bit mask of a roll covers."""
    return int(roll.rows.max()) + 1 if roll.rows is not None and len(roll.rows) else 0


def request_records(request: Request) -> RecordDict:
    """Return the records of a request."""
    records, header = RecordDict(), request_header(request)
    _put_proxy(records, request.proxy)
    put_content(records, header, request.incoming)
    _put_roll(records, request.roll)
    if request.keys is not None:
        keys = {"clients": to_array(request.keys.clients), "public": to_array(request.keys.public)}
        records[KEYS] = ArrayRecord(keys)
    records[CONTROL] = ConfigRecord(dict(header))
    return records


def read_request(
    records: RecordDict, *, action: Action, client: int, limits: Limits = ANY
) -> Request:
    """Rebuild a request; RecordError when it is newer, incomplete, misshapen or too large."""
    check_sizes(records, limits)
    header = _header(records)
    incoming = take_content(records, header, limits)
    if isinstance(incoming, Knowledge):
        raise RecordError("a request carries knowledge; only replies do")
    return Request(
        action=action,
        client=client,
        round=whole(header, "round"),
        incoming=incoming,
        proxy=_take_proxy(records, header, client=client, limits=limits),
        closing=truth(header, "closing"),
        roll=_take_roll(records, limits),
        keys=_take_keys(records),
        hello=_take_hello(header),
    )


def reply_records(reply: Reply) -> RecordDict:
    """Return the records of a reply."""
    records, header = RecordDict(), reply_header(reply)
    _put_proxy(records, reply.contribution)
    put_content(records, header, reply.upload)
    if reply.key is not None:
        records[KEYS] = ArrayRecord({"public": to_array(reply.key)})
    if reply.masked is not None:
        records[MASKED] = ArrayRecord({"words": to_array(reply.masked)})
    if reply.metrics:
        records[METRICS] = MetricRecord(dict(reply.metrics))
    records[CONTROL] = ConfigRecord(dict(header))
    return records


def read_reply(records: RecordDict, limits: Limits = ANY) -> Reply:
    """Rebuild a reply; RecordError when it is newer, incomplete, misshapen or too large."""
    check_sizes(records, limits)
    header = _header(records)
    upload = take_content(records, header, limits)
    if isinstance(upload, Consensus):
        raise RecordError("a reply carries a consensus; only requests do")
    client, arrays = whole(header, "client"), arrays_of(records)
    found = records.get(METRICS)
    measured = found if isinstance(found, MetricRecord) else MetricRecord()
    return Reply(
        client=client,
        upload=upload,
        contribution=_take_proxy(records, header, client=client, limits=limits),
        metrics={name: _number(name, value) for name, value in measured.items()},
        key=to_tensor(arrays[KEYS], "public") if KEYS in arrays else None,
        masked=to_tensor(arrays[MASKED], "words") if MASKED in arrays else None,
        hello=_take_hello(header),
    )


def bytes_of_reply(reply: Reply) -> bytes:
    """Return a reply as the bytes that travel."""
    return recorddict_to_proto(reply_records(reply)).SerializeToString()


def reply_of_bytes(data: bytes) -> Reply:
    """Rebuild a reply; damaged bytes raise all kinds of errors."""
    return read_reply(recorddict_from_proto(Proto.FromString(data)))


def count_bytes(records: RecordDict) -> dict[str, int]:
    """Return the serialised size by kind; the values add up to the whole serialised length."""
    message = recorddict_to_proto(records)
    sizes = {
        item.key: item.array_record.ByteSize()
        for item in message.items
        if item.HasField("array_record")
    }
    total = message.ByteSize()
    return sizes | {CONTROL: total - sum(sizes.values())}


def _header(records: RecordDict) -> Header:
    header = records.get(CONTROL)
    if not isinstance(header, ConfigRecord) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, ConfigRecord) else None
        raise RecordError(f"message schema {found!r}; this fedkd reads {SCHEMA}")
    return {name: fact for name, fact in header.items() if isinstance(fact, int | float | str)}


def _number(name: str, value: float | list[int] | list[float]) -> float:
    if isinstance(value, list):
        raise RecordError(f"the metric {name!r} is a list")
    return float(value)


def _proxy_header(proxy: ProxySet | None) -> Header:
    if proxy is None:
        return {}
    return {"proxy.source": proxy.source.value, "proxy.version": proxy.version}


def _put_proxy(records: RecordDict, proxy: ProxySet | None) -> None:
    if proxy is None:
        return
    arrays = {"inputs": to_array(proxy.inputs), "ids": to_array(proxy.ids)}
    if proxy.owner is not None:
        arrays["own"] = to_mask(torch.nonzero(proxy.owner != NOBODY).flatten(), len(proxy))
    records["proxy"] = ArrayRecord(arrays)


def _take_proxy(
    records: RecordDict, header: Header, *, client: int, limits: Limits
) -> ProxySet | None:
    record = arrays_of(records).get("proxy")
    if record is None:
        return None
    inputs, ids, owner = to_tensor(record, "inputs"), to_tensor(record, "ids"), None
    if inputs.dim() < 1 or ids.shape != inputs.shape[:1] or len(inputs) > limits.rows:
        raise RecordError(f"{tuple(inputs.shape)} inputs with {tuple(ids.shape)} ids")
    if "own" in record:
        owner = torch.full((len(inputs),), NOBODY)
        owner[rows_of(record, "own", len(inputs))] = client
    return ProxySet(
        inputs=inputs,
        ids=ids,
        owner=owner,
        source=one_of(ProxySource, header, "proxy.source"),
        version=whole(header, "proxy.version"),
    )


def _hello_header(hello: Hello | None) -> Header:
    if hello is None:
        return {}
    facts: Header = {"hello.version": hello.version, "hello.scenario": hello.scenario}
    return facts | {"hello.simulated": hello.simulated}


def _take_hello(header: Header) -> Hello | None:
    if "hello.version" not in header:
        return None
    return Hello(
        version=text(header, "hello.version"),
        scenario=text(header, "hello.scenario"),
        simulated=truth(header, "hello.simulated"),
    )


def _put_roll(records: RecordDict, roll: Roll | None) -> None:
    if roll is None:
        return
    if roll.rows is not None:
        records[MASKED] = ArrayRecord({"rows": to_mask(roll.rows, rows_in(roll))})
    facts = {"members": list(roll.members), "attempt": roll.attempt, "n_rows": rows_in(roll)}
    records[ROLL] = ConfigRecord(dict(facts))


def _take_roll(records: RecordDict, limits: Limits) -> Roll | None:
    facts = records.get(ROLL)
    if not isinstance(facts, ConfigRecord):
        return None
    members, attempt = facts.get("members"), whole(facts, "attempt", of="the roll's ")
    n_rows = whole(facts, "n_rows", most=limits.rows, of="the roll's ")
    if not isinstance(members, list) or not all(isinstance(n, int) for n in members):
        raise RecordError("a roll without its members")
    record = arrays_of(records).get(MASKED)
    rows = None if record is None else rows_of(record, "rows", n_rows)
    return Roll(members=tuple(int(member) for member in members), attempt=attempt, rows=rows)


def _take_keys(records: RecordDict) -> Keys | None:
    record = arrays_of(records).get(KEYS)
    if record is None:
        return None
    return Keys(clients=to_tensor(record, "clients"), public=to_tensor(record, "public"))
