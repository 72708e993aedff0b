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

from fedkd.transport.messages import Action, Reply, Request
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


class RecordError(ValueError):
    """Records that cannot be read: another schema, something missing or misshapen."""


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
    )


def reply_records(reply: Reply) -> RecordDict:
    """Return the records of a reply."""
    records = RecordDict()
    header: dict[str, int | float | str | bool] = {"schema": SCHEMA, "client": reply.client}
    _put_proxy(records, header, reply.contribution)
    _put_content(records, header, reply.upload)
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
    client = int(header["client"])
    measured = records.metric_records.get(METRICS, MetricRecord())
    return Reply(
        client=client,
        upload=upload,
        contribution=_take_proxy(records, header, client=client),
        metrics={name: float(value) for name, value in measured.items()},  # type: ignore[arg-type]
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
    arrays = {"scores": _array(content.scores)}
    if isinstance(content, Knowledge) and content.classes is not None:
        arrays["classes"] = _array(content.classes)
    records[kind] = ArrayRecord(arrays)
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
    scores = _tensor(arrays[kind], "scores")
    rows = _unpack(arrays[MASKS], "rows", int(header["n_rows"]))
    if scores.dim() != 2 or len(scores) != len(rows):
        raise RecordError(f"{tuple(scores.shape)} scores for {len(rows)} rows")
    space, temperature = Space(str(header["space"])), float(header["temperature"])
    if kind == "consensus":
        return Consensus(
            rows=rows, scores=scores, space=space, temperature=temperature, keepers=None
        )
    weighted = "weights" in arrays[MASKS]
    weights = _tensor(arrays[MASKS], "weights") if weighted else torch.ones(len(rows))
    return Knowledge(
        rows=rows,
        scores=scores,
        weights=weights,
        space=space,
        temperature=temperature,
        classes=_tensor(arrays[kind], "classes") if "classes" in arrays[kind] else None,
    )
