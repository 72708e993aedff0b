"""Knowledge, updates and consensus as arrays and facts, the form in which they travel.

Every kind of content has a record of its own, so that bytes can be counted by kind on exactly
what is serialised. Which rows scores are about travels as a bit mask.
"""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from fedkd.flat import FlatArrays
from fedkd.transport.codes import (
    RecordError,
    floats,
    floats_from,
    narrow,
    packed,
    unpacked,
    widened,
)
from fedkd.transport.reading import (
    Header,
    Limits,
    arrays_of,
    number,
    one_of,
    tensor_from,
    whole,
)
from fedkd.types import Broadcast, Consensus, Knowledge, Space, Update, Upload, Wire

MASKS = "masks"
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32)
"""What numbers of classes travel as."""
_SCORE_BYTES = 4


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


def take_content(
    records: RecordDict, header: Header, limits: Limits
) -> Knowledge | Consensus | Update | None:
    """Return the content that :func:`put_content` was given, None when there is none.

    Scores of knowledge stay in the type they came in, those of a consensus become float32.

    Raises:
        RecordError: something is missing, misshapen or larger than ``limits``.
    """
    arrays = arrays_of(records)
    if "update" in arrays:
        tensors = {name: to_tensor(arrays["update"], name) for name in arrays["update"]}
        return Update(arrays=FlatArrays.where_plain(tensors), weight=number(header, "weight"))
    kind = next((kind for kind in ("knowledge", "consensus") if kind in arrays), None)
    if kind is None:
        return None
    if MASKS not in arrays:
        raise RecordError(f"{kind} without its row mask")
    record, masks = arrays[kind], arrays[MASKS]
    rows = rows_of(masks, "rows", whole(header, "n_rows", most=limits.rows))
    wire = one_of(Wire, {"wire": Wire.FLOAT32.value, **header}, "wire")
    scores, bits = _take_scores(record, header, (len(rows), limits), wire)
    space, temperature = one_of(Space, header, "space"), number(header, "temperature")
    told = _each(record, "temperatures", len(rows))
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
    weights = _each(masks, "weights", len(rows))
    return Knowledge(
        rows=rows,
        scores=scores,
        weights=torch.ones(len(rows)) if weights is None else weights,
        space=space,
        temperature=temperature,
        classes=_take_classes(record, scores),
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


def to_array(tensor: Tensor) -> Array:
    """Return a tensor as it travels."""
    return Array(tensor.detach().cpu().contiguous().numpy())


def to_tensor(record: ArrayRecord, name: str) -> Tensor:
    """Return an array that came; RecordError when it did not."""
    if name not in record:
        raise RecordError(f"array {name!r} is missing")
    return tensor_from(record[name])


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
    record: ArrayRecord, header: Header, room: tuple[int, Limits], wire: Wire
) -> tuple[Tensor, int | None]:
    """Return scores and of how many bits they are; ``room`` is the number of rows and limits."""
    scores, bits, (n_rows, limits) = to_tensor(record, "scores"), None, room
    if "bits" in header:
        bits, columns = whole(header, "bits"), whole({"columns": 0, **header}, "columns")
        _check_room(n_rows, columns, limits)
        scores = unpacked(scores, bits, shape=(n_rows, columns))
    else:
        scores = floats_from(scores, wire)
    if scores.dim() != 2 or len(scores) != n_rows:
        raise RecordError(f"{tuple(scores.shape)} scores for {n_rows} rows")
    _check_room(n_rows, scores.shape[1], limits)
    return scores, bits


def _check_room(n_rows: int, columns: int, limits: Limits) -> None:
    if columns > limits.classes or n_rows * columns * _SCORE_BYTES > limits.decoded_bytes:
        raise RecordError(f"{n_rows} rows of {columns} classes; that is more than is read")


def _take_classes(record: ArrayRecord, scores: Tensor) -> Tensor | None:
    if "classes" not in record:
        return None
    classes = to_tensor(record, "classes")
    if classes.dtype not in UNSIGNED:
        raise RecordError(f"classes of type {classes.dtype}, which are no numbers of classes")
    if classes.numel() > max(scores.numel(), scores.shape[1]):
        raise RecordError(f"{tuple(classes.shape)} classes for {tuple(scores.shape)} scores")
    return widened(classes)


def _each(record: ArrayRecord, name: str, n_rows: int) -> Tensor | None:
    """Return one float32 number a row, None when they are not there."""
    if name not in record:
        return None
    numbers = to_tensor(record, name)
    if numbers.dtype != torch.float32 or numbers.shape != (n_rows,):
        raise RecordError(f"{tuple(numbers.shape)} {name} of {numbers.dtype} for {n_rows} rows")
    return numbers
