"""Requests and replies as Flower records, and how many bytes each kind of them takes.

Every kind of content has a record of its own, so that bytes can be counted by kind on exactly
what is serialised. Which rows scores are about travels as a bit mask.
"""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from torch import Tensor

from fedkd.transport.codes import RecordError, narrow, packed, unpacked, widened
from fedkd.transport.messages import Action, Keys, Reply, Request, Roll
from fedkd.types import (
    NOBODY,
    SCHEMA,
    Broadcast,
    Consensus,
    Knowledge,
    ProxySet,
    ProxySource,
    Space,
    Update,
    Upload,
)

CONTROL, METRICS, MASKS = "control", "metrics", "masks"
KEYS, MASKED, ROLL = "keys", "masked", "roll"


def request_records(request: Request) -> RecordDict:
    """Return the records of a request."""
    records = RecordDict()
    header: dict[str, int | float | str | bool] = {
        "schema": SCHEMA,
        "round": request.round,
        "closing": request.closing,
    }
    _put_proxy(records, header, request.proxy)
    _put_content(records, header, request.incoming)
    _put_roll(records, request.roll)
    if request.keys is not None:
        keys = {"clients": _array(request.keys.clients), "public": _array(request.keys.public)}
        records[KEYS] = ArrayRecord(keys)
    records[CONTROL] = ConfigRecord(dict(header))
    return records


def read_request(records: RecordDict, *, action: Action, client: int) -> Request:
    """Rebuild a request; RecordError when it is newer or incomplete."""
    header = _header(records)
    incoming = _take_content(records, header)
    if isinstance(incoming, Knowledge):
        raise RecordError("a request carries knowledge; only replies do")
    return Request(
        action=action,
        client=client,
        round=int(header["round"]),
        incoming=incoming,
        proxy=_take_proxy(records, header, client=client),
        closing=bool(header["closing"]),
        roll=_take_roll(records),
        keys=_take_keys(records),
    )


def reply_records(reply: Reply) -> RecordDict:
    """Return the records of a reply."""
    records = RecordDict()
    header: dict[str, int | float | str | bool] = {"schema": SCHEMA, "client": reply.client}
    _put_proxy(records, header, reply.contribution)
    _put_content(records, header, reply.upload)
    if reply.key is not None:
        records[KEYS] = ArrayRecord({"public": _array(reply.key)})
    if reply.masked is not None:
        records[MASKED] = ArrayRecord({"words": _array(reply.masked)})
    if reply.metrics:
        records[METRICS] = MetricRecord(dict(reply.metrics))
    records[CONTROL] = ConfigRecord(dict(header))
    return records


def read_reply(records: RecordDict) -> Reply:
    """Rebuild a reply; RecordError when it is newer or incomplete."""
    header = _header(records)
    upload = _take_content(records, header)
    if isinstance(upload, Consensus):
        raise RecordError("a reply carries a consensus; only requests do")
    client, arrays = int(header["client"]), _arrays(records)
    measured = records.metric_records.get(METRICS, MetricRecord())
    return Reply(
        client=client,
        upload=upload,
        contribution=_take_proxy(records, header, client=client),
        metrics={name: float(value) for name, value in measured.items()},  # type: ignore[arg-type]
        key=_tensor(arrays[KEYS], "public") if KEYS in arrays else None,
        masked=_tensor(arrays[MASKED], "words") if MASKED in arrays else None,
    )


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


Header = dict[str, int | float | str | bool]


def _header(records: RecordDict) -> Header:
    header = records.get(CONTROL)
    if not isinstance(header, ConfigRecord) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, ConfigRecord) else None
        raise RecordError(f"message schema {found!r}; this fedkd reads {SCHEMA}")
    return dict(header)  # type: ignore[arg-type]


def _arrays(records: RecordDict) -> dict[str, ArrayRecord]:
    """Return the array records; Flower's own view of them checks every type again."""
    return {name: record for name, record in records.items() if isinstance(record, ArrayRecord)}


def _array(tensor: Tensor) -> Array:
    return Array(tensor.detach().cpu().numpy())


def _tensor(record: ArrayRecord, name: str) -> Tensor:
    if name not in record:
        raise RecordError(f"array {name!r} is missing")
    return torch.from_numpy(record[name].numpy().copy())


def _pack(rows: Tensor, n_rows: int) -> Array:
    mask = np.zeros(n_rows, dtype=bool)
    mask[rows.cpu().numpy()] = True
    return Array(np.packbits(mask))


def _unpack(record: ArrayRecord, name: str, n_rows: int) -> Tensor:
    bits = _tensor(record, name)
    if bits.dtype != torch.uint8 or bits.dim() != 1 or len(bits) != -(-n_rows // 8):
        raise RecordError(f"mask {name!r} has {tuple(bits.shape)} bytes for {n_rows} rows")
    mask = np.unpackbits(bits.numpy(), count=n_rows)
    return torch.from_numpy(np.flatnonzero(mask))


def _put_proxy(records: RecordDict, header: Header, proxy: ProxySet | None) -> None:
    if proxy is None:
        return
    arrays = {"inputs": _array(proxy.inputs), "ids": _array(proxy.ids)}
    if proxy.owner is not None:
        arrays["own"] = _pack(torch.nonzero(proxy.owner != NOBODY).flatten(), len(proxy))
    header |= {"proxy.source": proxy.source.value, "proxy.version": proxy.version}
    records["proxy"] = ArrayRecord(arrays)


def _take_proxy(records: RecordDict, header: Header, *, client: int) -> ProxySet | None:
    record = _arrays(records).get("proxy")
    if record is None:
        return None
    inputs, ids, owner = _tensor(record, "inputs"), _tensor(record, "ids"), None
    if "own" in record:
        owner = torch.full((len(inputs),), NOBODY)
        owner[_unpack(record, "own", len(inputs))] = client
    return ProxySet(
        inputs=inputs,
        ids=ids,
        owner=owner,
        source=ProxySource(str(header["proxy.source"])),
        version=int(header["proxy.version"]),
    )


def _put_roll(records: RecordDict, roll: Roll | None) -> None:
    if roll is None:
        return
    n_rows = 0
    if roll.rows is not None:
        n_rows = int(roll.rows.max()) + 1 if len(roll.rows) else 0
        records[MASKED] = ArrayRecord({"rows": _pack(roll.rows, n_rows)})
    facts = {"members": list(roll.members), "attempt": roll.attempt, "n_rows": n_rows}
    records[ROLL] = ConfigRecord(dict(facts))


def _take_roll(records: RecordDict) -> Roll | None:
    facts = records.get(ROLL)
    if not isinstance(facts, ConfigRecord):
        return None
    members, attempt, n_rows = facts["members"], facts["attempt"], facts["n_rows"]
    if not isinstance(members, list) or not isinstance(attempt, int) or not isinstance(n_rows, int):
        raise RecordError(f"a roll of {members!r}, attempt {attempt!r}, {n_rows!r} rows")
    record = _arrays(records).get(MASKED)
    rows = None if record is None else _unpack(record, "rows", n_rows)
    return Roll(members=tuple(int(member) for member in members), attempt=attempt, rows=rows)


def _take_keys(records: RecordDict) -> Keys | None:
    record = _arrays(records).get(KEYS)
    if record is None:
        return None
    return Keys(clients=_tensor(record, "clients"), public=_tensor(record, "public"))


def _put_content(records: RecordDict, header: Header, content: Upload | Broadcast | None) -> None:
    if content is None:
        return
    if isinstance(content, Update):
        header["weight"] = content.weight
        records["update"] = ArrayRecord({k: _array(v) for k, v in content.arrays.items()})
        return
    kind = "knowledge" if isinstance(content, Knowledge) else "consensus"
    n_rows = int(content.rows.max()) + 1 if len(content) else 0
    header |= {"n_rows": n_rows, "space": content.space.value, "temperature": content.temperature}
    arrays = {"scores": content.scores}
    if isinstance(content, Knowledge) and content.bits is not None:
        header |= {"bits": content.bits, "columns": content.scores.shape[1]}
        arrays["scores"] = packed(content.scores, content.bits)
    if isinstance(content, Knowledge) and content.classes is not None:
        arrays["classes"] = narrow(content.classes)
    if content.row_temperatures is not None:
        arrays["temperatures"] = content.row_temperatures
    records[kind] = ArrayRecord({name: _array(tensor) for name, tensor in arrays.items()})
    masks = {"rows": _pack(content.rows, n_rows)}
    if isinstance(content, Knowledge) and bool((content.weights != 1).any()):
        masks["weights"] = _array(content.weights)
    records[MASKS] = ArrayRecord(masks)


def _take_content(records: RecordDict, header: Header) -> Knowledge | Consensus | Update | None:
    arrays = _arrays(records)
    if "update" in arrays:
        tensors = {name: _tensor(arrays["update"], name) for name in arrays["update"]}
        return Update(arrays=tensors, weight=float(header["weight"]))
    kind = next((kind for kind in ("knowledge", "consensus") if kind in arrays), None)
    if kind is None:
        return None
    if MASKS not in arrays:
        raise RecordError(f"{kind} without its row mask")
    rows = _unpack(arrays[MASKS], "rows", int(header["n_rows"]))
    scores, bits = _tensor(arrays[kind], "scores"), None
    if "bits" in header:
        bits = int(header["bits"])
        scores = unpacked(scores, bits, shape=(len(rows), int(header.get("columns", 0))))
    if scores.dim() != 2 or len(scores) != len(rows):
        raise RecordError(f"{tuple(scores.shape)} scores for {len(rows)} rows")
    space, temperature = Space(str(header["space"])), float(header["temperature"])
    told = _tensor(arrays[kind], "temperatures") if "temperatures" in arrays[kind] else None
    if kind == "consensus":
        return Consensus(
            rows=rows,
            scores=scores,
            space=space,
            temperature=temperature,
            keepers=None,
            row_temperatures=told,
        )
    weighted = "weights" in arrays[MASKS]
    weights = _tensor(arrays[MASKS], "weights") if weighted else torch.ones(len(rows))
    return Knowledge(
        rows=rows,
        scores=scores,
        weights=weights,
        space=space,
        temperature=temperature,
        classes=widened(_tensor(arrays[kind], "classes")) if "classes" in arrays[kind] else None,
        bits=bits,
        row_temperatures=told,
    )
