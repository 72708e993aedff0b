"""What every upload must pass before anything reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.flat import FlatArrays, Layout
from fedkd.protectors.base import dense
from fedkd.simplex import TOLERANCE
from fedkd.transport.codes import WIRE_ROUNDING, WIRE_TYPES
from fedkd.types import LOGIT_LIMIT, Broadcast, Knowledge, ProxySet, Space, Update, Upload, Wire

EXAMPLE_LIMIT = 1e7
"""Largest weight of an update."""
ROUNDING = 1e-5
"""How far, relatively, a float32 temperature may be out of its range."""


class UploadError(ValueError):
    """An upload that is dropped; the message is a short reason without the upload's numbers."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an upload of this round must look like.

    Attributes:
        row_temperatures: the range of temperatures told row by row; None when none are.
        wire: the format of scores, unless they are of a few bits.
    """

    space: Space
    temperature: float
    n_rows: int
    n_classes: int
    row_temperatures: tuple[float, float] | None = None
    wire: Wire = Wire.FLOAT32


def check_knowledge(upload: Upload | None, expected: Expected) -> Knowledge:
    """Return ``upload`` as knowledge about all classes; UploadError when it is not sound."""
    if not isinstance(upload, Knowledge):
        raise UploadError("no knowledge in the reply")
    _check_classes(upload, expected)
    _check_shapes(upload, expected)
    _check_row_temperatures(upload, expected)
    _check_values(upload, expected)
    return dense(upload, n_classes=expected.n_classes)


def _check_shapes(upload: Knowledge, expected: Expected) -> None:
    rows = upload.rows
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise UploadError("rows that are no list of whole numbers")
    if (upload.space, upload.temperature) != (expected.space, expected.temperature):
        raise UploadError("scores in another space or at another temperature")
    wire = expected.wire if upload.bits is None else Wire.FLOAT32
    if upload.scores.dtype != WIRE_TYPES[wire]:
        raise UploadError(f"scores are not {wire.value}")
    if upload.weights.dtype != torch.float32:
        raise UploadError("weights are not float32")
    width = expected.n_classes if upload.classes is None else upload.classes.shape[1]
    if upload.scores.shape != (len(upload.rows), width):
        raise UploadError("scores of the wrong shape")
    if upload.weights.shape != upload.rows.shape:
        raise UploadError("as many weights as rows are needed")
    if len(rows) and (int(rows[0]) < 0 or int(rows[-1]) >= expected.n_rows):
        raise UploadError("rows outside the proxy set")
    if bool((rows[1:] <= rows[:-1]).any()):
        raise UploadError("rows repeated or out of order")


def _check_classes(upload: Knowledge, expected: Expected) -> None:
    classes = upload.classes
    if classes is None:
        return
    if classes.dim() != 2:
        raise UploadError("a label space of its own, which no aggregator shipped can merge")
    if upload.space is not Space.PROBS:
        raise UploadError("logits of some classes only")
    if classes.shape != upload.scores.shape or classes.dtype != torch.int64:
        raise UploadError("as many classes as scores are needed")
    if not 1 <= classes.shape[1] <= expected.n_classes:
        raise UploadError("no classes, or more than there are")
    if bool(((classes < 0) | (classes >= expected.n_classes)).any()):
        raise UploadError("classes that do not exist")
    if bool((classes.sort(dim=1).values.diff(dim=1) == 0).any()):
        raise UploadError("classes repeated in a row")


def _check_row_temperatures(upload: Knowledge, expected: Expected) -> None:
    told, allowed = upload.row_temperatures, expected.row_temperatures
    if told is None and allowed is None:
        return
    if told is None or allowed is None:
        raise UploadError("temperatures told row by row where none are, or none where they are")
    if told.dtype != torch.float32 or told.shape != upload.rows.shape:
        raise UploadError("as many float32 temperatures as rows are needed")
    least, most = allowed[0] * (1 - ROUNDING), allowed[1] * (1 + ROUNDING)
    if not bool(((told >= least) & (told <= most)).all()):
        raise UploadError("temperatures out of the protector's range")


def _check_values(upload: Knowledge, expected: Expected) -> None:
    scores = upload.scores.float()
    check_finite(scores)
    check_finite(upload.weights)
    if bool(((upload.weights <= 0) | (upload.weights > 1)).any()):
        raise UploadError("weights outside (0, 1]")
    if upload.space is Space.LOGITS:
        if bool((scores.abs() > LOGIT_LIMIT).any()):
            raise UploadError("logits beyond the limit")
        return
    excess = scores.sum(dim=1) - 1
    whole = scores.shape[1] == expected.n_classes
    off = (excess.abs() if whole else excess) > TOLERANCE + WIRE_ROUNDING[expected.wire]
    if bool(off.any()) or bool((scores < 0).any()):
        raise UploadError("rows that are not probabilities")


def check_update(upload: Upload | None, sent: Broadcast | None, *, in_sum: bool = False) -> Update:
    """Return ``upload`` as an update of the parameters that were sent, in their layout.

    Args:
        upload: what came.
        sent: what it is an update of.
        in_sum: whether the caller sees to it that numbers which are not finite are found, by the
            sum over some updates.

    Raises:
        UploadError: it is none.
    """
    if not isinstance(upload, Update) or not isinstance(sent, Update):
        raise UploadError("no update in the reply")
    if not 0 < upload.weight <= EXAMPLE_LIMIT:
        raise UploadError("a weight that is no number of examples")
    layout = FlatArrays.of(sent.arrays).layout
    if not (isinstance(upload.arrays, FlatArrays) and upload.arrays.layout == layout):
        upload = replace(upload, arrays=_laid_out(upload.arrays, layout))
    if not in_sum:
        check_finite(FlatArrays.of(upload.arrays).vector)
    return upload


def _laid_out(arrays: Mapping[str, Tensor], layout: Layout) -> FlatArrays:
    if set(arrays) != {part.name for part in layout.parts}:
        raise UploadError("other parameters than were sent")
    for part in layout.parts:
        value = arrays[part.name]
        if value.shape != part.shape or value.dtype != torch.float32:
            raise UploadError("parameters of another shape or type")
    return FlatArrays.of(arrays, layout)


def check_contribution(
    contribution: ProxySet | None,
    *,
    like: Tensor | None,
    n_ids: int | None = None,
    most: int | None = None,
) -> ProxySet:
    """Return a client's share of the proxy set; UploadError when it is not sound.

    Args:
        contribution: what came.
        like: inputs of the shape and type that are expected; None expects nothing.
        n_ids: ids are below this; None expects nothing.
        most: inputs that one client may give: all clients are sent them, and predict them all.
    """
    if contribution is None:
        raise UploadError("no contribution in the reply")
    inputs, ids = contribution.inputs, contribution.ids
    if inputs.dim() < 1 or ids.shape != inputs.shape[:1] or ids.dtype != torch.int64:
        raise UploadError("as many ids as inputs are needed")
    if most is not None and len(ids) > most:
        raise UploadError("more inputs than the scenario's data set has")
    if len(torch.unique(ids)) < len(ids):
        raise UploadError("ids repeated")
    if len(ids) and (int(ids.min()) < 0 or (n_ids is not None and int(ids.max()) >= n_ids)):
        raise UploadError("ids out of range")
    if like is not None and (inputs.shape[1:] != like.shape[1:] or inputs.dtype != like.dtype):
        raise UploadError("inputs of another shape or type than the data set's")
    if inputs.dtype not in (torch.uint8, torch.int16, torch.float32):
        raise UploadError("inputs that are neither uint8, int16 nor float32")
    if inputs.is_floating_point():
        check_finite(inputs)
    return contribution


def finite(values: Tensor) -> bool:
    """Return whether all values are finite; one that is not shows in their sum."""
    if not values.is_floating_point() or math.isfinite(float(values.sum())):
        return True
    return bool(torch.isfinite(values).all())


def check_finite(values: Tensor) -> None:
    """Raise UploadError where values are not all finite."""
    if not finite(values):
        raise UploadError("numbers that are not finite")
