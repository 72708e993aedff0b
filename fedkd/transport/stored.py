"""Records as named tensors and a few facts: the form they have in files (safetensors)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedkd.flat import FlatArrays
from fedkd.results import MaskedUploads, Traffic
from fedkd.transport.codes import (
    WIRE_TYPES,
    RecordError,
    floats,
    narrow,
    packed,
    unpacked,
    widened,
)
from fedkd.transport.reading import Limits, number, one_of, parsed, text, whole
from fedkd.types import (
    SCHEMA,
    Broadcast,
    Consensus,
    Knowledge,
    ProxySet,
    ProxySource,
    Space,
    Update,
    Upload,
    Wire,
)

_HEADER_BYTES = 8
"""A safetensors file opens with the length of its JSON header, little-endian."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Stored:
    """One record in parts; the tensors are copies, so that the record may change afterwards.

    Attributes:
        tensors: by name.
        facts: what is no tensor, as JSON can hold it.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def sha256(self) -> str:
        """Return the SHA-256 of names, types, shapes, bytes and facts; 64 hex digits."""
        sha = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            sha.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            plain = floats(tensor, Wire.BFLOAT16) if tensor.dtype == torch.bfloat16 else tensor
            sha.update(plain.numpy().tobytes())
        return sha.hexdigest()


def stored(record: Upload | Broadcast) -> Stored:
    """Return what :func:`content_of` turns back into ``record``, bit by bit; scores as float32."""
    if isinstance(record, Update):
        facts = {"kind": "update", "weight": record.weight, "order": list(record.arrays)}
        return Stored(tensors=_copies(record.arrays), facts=facts)
    facts = {"space": record.space.value, "temperature": record.temperature}
    if record.wire is not Wire.FLOAT32:
        facts["wire"] = record.wire.value
    tensors = {"rows": narrow(record.rows), "scores": record.scores.to(WIRE_TYPES[record.wire])}
    if record.row_temperatures is not None:
        tensors["row_temperatures"] = record.row_temperatures
    if isinstance(record, Consensus):
        if record.keepers is not None:
            tensors["keepers"] = narrow(record.keepers)
        return Stored(tensors=_copies(tensors), facts={"kind": "consensus", **facts})
    if record.classes is not None:
        tensors["classes"] = narrow(record.classes)
    if bool((record.weights != 1).any()):
        tensors["weights"] = record.weights
    tensors, codes = _with_codes(tensors, record.bits)
    return Stored(tensors=_copies(tensors), facts={"kind": "knowledge", **facts, **codes})


def content_of(parts: Stored) -> Upload | Broadcast:
    """Return the record that :func:`stored` was given; RecordError when it is none."""
    facts, kind = parts.facts, text(parts.facts, "kind")
    if kind == "update":
        order = facts.get("order")
        if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
            raise RecordError("an update without the order of its parameters")
        arrays = {name: _part(parts, name) for name in order}
        return Update(arrays=FlatArrays.where_plain(arrays), weight=number(facts, "weight"))
    rows, space = _ints(parts, "rows"), one_of(Space, facts, "space")
    told, temperature = parts.tensors.get("row_temperatures"), number(facts, "temperature")
    wire = one_of(Wire, {"wire": Wire.FLOAT32.value, **facts}, "wire")
    if kind == "consensus":
        return Consensus(
            rows=rows,
            scores=_scores(parts, len(rows)),
            space=space,
            temperature=temperature,
            keepers=_ints(parts, "keepers") if "keepers" in parts.tensors else None,
            row_temperatures=told,
            wire=wire,
        )
    if kind != "knowledge":
        raise RecordError(f"a record of the kind {kind!r}")
    return Knowledge(
        rows=rows,
        scores=_scores(parts, len(rows)),
        weights=parts.tensors.get("weights", torch.ones(len(rows))),
        space=space,
        temperature=temperature,
        classes=widened(_part(parts, "classes")) if "classes" in parts.tensors else None,
        bits=None if facts.get("bits") is None else whole(facts, "bits"),
        row_temperatures=told,
        wire=wire,
    )


def stored_proxy(proxy: ProxySet) -> Stored:
    """Return what :func:`proxy_of` turns back into ``proxy``."""
    tensors = {"inputs": proxy.inputs, "ids": proxy.ids}
    if proxy.owner is not None:
        tensors["owner"] = proxy.owner
    facts = {
        "kind": "proxy",
        "source": proxy.source.value,
        "version": proxy.version,
        "rows_per_input": proxy.rows_per_input,
    }
    return Stored(tensors=_copies(tensors), facts=facts)


def proxy_of(parts: Stored) -> ProxySet:
    """Return the proxy set that :func:`stored_proxy` was given; RecordError when it is none."""
    inputs, ids, facts = _part(parts, "inputs"), _part(parts, "ids"), parts.facts
    if inputs.dim() < 1 or ids.shape != inputs.shape[:1]:
        raise RecordError(f"{tuple(inputs.shape)} inputs with {tuple(ids.shape)} ids")
    return ProxySet(
        inputs=inputs,
        ids=ids,
        owner=parts.tensors.get("owner"),
        source=one_of(ProxySource, facts, "source"),
        version=whole(facts, "version"),
        rows_per_input=whole(facts, "rows_per_input"),
    )


def parts_of(traffic: Traffic) -> dict[str, Stored]:
    """Return the messages of a round by part: ``upload.3``, ``masked.3``, ``broadcast``."""
    parts = {f"upload.{client}": stored(upload) for client, upload in traffic.uploads.items()}
    if traffic.masked is not None:
        parts["masked"] = Stored(tensors={"rows": narrow(traffic.masked.rows)}, facts={})
        for client, words in traffic.masked.words.items():
            parts[f"masked.{client}"] = Stored(tensors=_copies({"words": words}), facts={})
    if traffic.broadcast is not None:
        parts["broadcast"] = stored(traffic.broadcast)
    return parts


def traffic_of(parts: Mapping[str, Stored]) -> Traffic:
    """Return what :func:`parts_of` was given, without proxy set and student."""
    sent, words, uploads = None, dict[int, Tensor](), dict[int, Upload]()
    for part, one in parts.items():
        kind, _, client = part.partition(".")
        if client and not client.isdecimal():
            raise RecordError(f"{part!r} names no client")
        if kind == "masked" and client:
            words[int(client)] = _part(one, "words")
        elif kind == "upload":
            content = content_of(one)
            if isinstance(content, Consensus):
                raise RecordError(f"{part} is a consensus")
            uploads[int(client)] = content
        elif kind == "broadcast":
            sent = content_of(one)
            if isinstance(sent, Knowledge):
                raise RecordError("the broadcast is knowledge")
    masked = None
    if "masked" in parts:
        masked = MaskedUploads(rows=_ints(parts["masked"], "rows"), words=words)
    return Traffic(uploads=uploads, masked=masked, broadcast=sent)


def to_bytes(parts: Mapping[str, Stored]) -> bytes:
    """Return a safetensors file of some records; their tensors are called ``PART.NAME``."""
    tensors = {f"{part}.{name}": t for part, s in parts.items() for name, t in s.tensors.items()}
    facts = {part: one.facts for part, one in parts.items()}
    return save(tensors, metadata={"fedkd": json.dumps({"schema": SCHEMA, "parts": facts})})


def from_bytes(data: bytes) -> dict[str, Stored]:
    """Return the records of a file by part; RecordError for anything but a file of ours."""
    header = parsed(data[_HEADER_BYTES:][: int.from_bytes(data[:_HEADER_BYTES], "little")])
    about = header.get("__metadata__")
    told = parsed(text(about, "fedkd").encode()) if isinstance(about, dict) else {}
    if told.get("schema") != SCHEMA:
        raise RecordError(f"schema {told.get('schema')!r}; this fedkd reads {SCHEMA}")
    parts = told.get("parts")
    if not isinstance(parts, dict) or not all(isinstance(f, dict) for f in parts.values()):
        raise RecordError("a file that does not say what is in it")
    found: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    longest_first = sorted(found, key=len, reverse=True)
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise RecordError(f"no safetensors file ({type(error).__name__})") from None
    for name, tensor in tensors.items():
        part = next((part for part in longest_first if name.startswith(f"{part}.")), None)
        if part is None:
            raise RecordError("a tensor that belongs to no part of its file")
        found[part][name.removeprefix(f"{part}.")] = tensor
    return {part: Stored(tensors=t, facts=parts[part]) for part, t in found.items()}


def _part(parts: Stored, name: str) -> Tensor:
    if name not in parts.tensors:
        raise RecordError(f"tensor {name!r} is missing")
    return parts.tensors[name]


def _ints(parts: Stored, name: str) -> Tensor:
    """Return whole numbers, int64, of one dimension."""
    found = widened(_part(parts, name))
    if found.dim() != 1:
        raise RecordError(f"{name!r} of {found.dim()} dimensions")
    return found


def _scores(parts: Stored, n_rows: int) -> Tensor:
    """Return float32 scores ``[n_rows, classes]``, unpacked where they are of a few bits."""
    scores, facts = _part(parts, "scores"), parts.facts
    if "columns" in facts:
        columns, bits = whole(facts, "columns", most=Limits.classes), whole(facts, "bits")
        scores = unpacked(scores, bits, shape=(n_rows, columns))
    if scores.dim() < 1 or len(scores) != n_rows:
        raise RecordError(f"{tuple(scores.shape)} scores for {n_rows} rows")
    return scores.float()


def _with_codes(
    tensors: dict[str, Tensor], bits: int | None
) -> tuple[dict[str, Tensor], dict[str, int | None]]:
    """Return scores of a few bits as such, where that loses nothing."""
    scores = tensors["scores"]
    if bits is None or scores.dim() != 2:
        return tensors, {"bits": bits}
    stream, shape = packed(scores, bits), (scores.shape[0], scores.shape[1])
    if not torch.equal(unpacked(stream, bits, shape=shape), scores.detach().cpu()):
        return tensors, {"bits": bits}
    return {**tensors, "scores": stream}, {"bits": bits, "columns": shape[1]}


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
