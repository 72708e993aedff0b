"""Knowledge, updates and consensus as arrays and facts, the form in which they travel.

Every kind of content has a record of its own, so that bytes can be counted by kind on exactly
what is serialised. Which rows scores are about travels as a bit mask.
"""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from fedkd.transport.codes import (
    RecordError,
    floats,
    floats_from,
    narrow,
    packed,
    unpacked,
    widened,
)
from fedkd.types import Broadcast, Consensus, Knowledge, Space, Update, Upload, Wire

Header = dict[str, int | float | str | bool]
MASKS = "masks"


def content_header(content: Upload | Broadcast | None) -> Header:
    """Return what the reader of some content must know beside its arrays."""
    if content is None:
        return {}
    if isinstance(content, Update):
        return {"weight": content.weight}
    header: Header = {
        "n_rows": int(content.rows.max()) + 1 if len(content) else 0,
        "space": content.space.value,
        "temperature": content.temperature,
    }
    if isinstance(content, Knowledge) and content.bits is not None:
        header |= {"bits": content.bits, "columns": content.scores.shape[1]}
    elif content.wire is not Wire.FLOAT32:
        header["wire"] = content.wire.value
    return header


def put_content(records: RecordDict, header: Header, content: Upload | Broadcast | None) -> None:
    """Add the records of some content; ``header`` is :func:`content_header` of it, or more."""
    if content is None:
        return
    if isinstance(content, Update):
        records["update"] = ArrayRecord({k: to_array(v) for k, v in content.arrays.items()})
        return
    if isinstance(content, Knowledge) and content.bits is not None:
        arrays = {"scores": packed(content.scores, content.bits)}
    else:
        arrays = {"scores": floats(content.scores, content.wire)}
    if isinstance(content, Knowledge) and content.classes is not None:
        arrays["classes"] = narrow(content.classes)
    if content.row_temperatures is not None:
        arrays["temperatures"] = content.row_temperatures
    record = ArrayRecord({name: to_array(tensor) for name, tensor in arrays.items()})
    records[kind_of(content)] = record
    masks = {"rows": to_mask(content.rows, int(header["n_rows"]))}
    if isinstance(content, Knowledge) and not all_ones(content.weights):
        masks["weights"] = to_array(content.weights)
    records[MASKS] = ArrayRecord(masks)


def take_content(records: RecordDict, header: Header) -> Knowledge | Consensus | Update | None:
    """Return the content that :func:`put_content` was given, None when there is none.

    Scores of knowledge stay in the type they came in, those of a consensus become float32.

    Raises:
        RecordError: something is missing or misshapen.
    """
    arrays = arrays_of(records)
    if "update" in arrays:
        tensors = {name: to_tensor(arrays["update"], name) for name in arrays["update"]}
        return Update(arrays=tensors, weight=float(header["weight"]))
    kind = next((kind for kind in ("knowledge", "consensus") if kind in arrays), None)
    if kind is None:
        return None
    if MASKS not in arrays:
        raise RecordError(f"{kind} without its row mask")
    record, masks = arrays[kind], arrays[MASKS]
    rows = rows_of(masks, "rows", int(header["n_rows"]))
    wire = Wire(str(header.get("wire", Wire.FLOAT32.value)))
    scores, bits = _take_scores(record, header, len(rows), wire)
    space, temperature = Space(str(header["space"])), float(header["temperature"])
    told = to_tensor(record, "temperatures") if "temperatures" in record else None
    if kind == "consensus":
        return Consensus(
            rows=rows,
            scores=scores.float(),
            space=space,
            temperature=temperature,
            keepers=None,
            row_temperatures=told,
            wire=wire,
        )
    return Knowledge(
        rows=rows,
        scores=scores,
        weights=to_tensor(masks, "weights") if "weights" in masks else torch.ones(len(rows)),
        space=space,
        temperature=temperature,
        classes=widened(to_tensor(record, "classes")) if "classes" in record else None,
        bits=bits,
        row_temperatures=told,
        wire=wire,
    )


def kind_of(content: Upload | Broadcast) -> str:
    """Return the name of the record that holds the numbers of some content."""
    if isinstance(content, Update):
        return "update"
    return "knowledge" if isinstance(content, Knowledge) else "consensus"


def all_ones(weights: Tensor) -> bool:
    """Return whether weights say nothing, and need not travel."""
    if not len(weights):
        return True
    least, most = torch.aminmax(weights)
    return float(least) == 1 == float(most)


def arrays_of(records: RecordDict) -> dict[str, ArrayRecord]:
    """Return the array records; Flower's own view of them checks every type again."""
    return {name: record for name, record in records.items() if isinstance(record, ArrayRecord)}


def to_array(tensor: Tensor) -> Array:
    """Return a tensor as it travels."""
    return Array(tensor.detach().cpu().contiguous().numpy())


def to_tensor(record: ArrayRecord, name: str) -> Tensor:
    """Return an array that came; RecordError when it did not."""
    if name not in record:
        raise RecordError(f"array {name!r} is missing")
    return torch.from_numpy(record[name].numpy().copy())


def to_mask(rows: Tensor, n_rows: int) -> Array:
    """Return some of ``n_rows`` rows as a bit mask."""
    mask = np.zeros(n_rows, dtype=bool)
    mask[rows.cpu().numpy()] = True
    return Array(np.packbits(mask))


def rows_of(record: ArrayRecord, name: str, n_rows: int) -> Tensor:
    """Return the rows of a bit mask, int64, ascending; RecordError when it is no such mask."""
    bits = to_tensor(record, name)
    if bits.dtype != torch.uint8 or bits.dim() != 1 or len(bits) != -(-n_rows // 8):
        raise RecordError(f"mask {name!r} has {tuple(bits.shape)} bytes for {n_rows} rows")
    mask = np.unpackbits(bits.numpy(), count=n_rows)
    return torch.from_numpy(np.flatnonzero(mask))


def _take_scores(
    record: ArrayRecord, header: Header, n_rows: int, wire: Wire
) -> tuple[Tensor, int | None]:
    scores, bits = to_tensor(record, "scores"), None
    if "bits" in header:
        bits = int(header["bits"])
        scores = unpacked(scores, bits, shape=(n_rows, int(header.get("columns", 0))))
    else:
        scores = floats_from(scores, wire)
    if scores.dim() != 2 or len(scores) != n_rows:
        raise RecordError(f"{tuple(scores.shape)} scores for {n_rows} rows")
    return scores, bits
