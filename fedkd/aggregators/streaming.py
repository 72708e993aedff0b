"""Sums over uploads that come one after the other, in memory that their number does not touch.

Everything is added in place and in the order of the calls, in float64; scores are read in the type
they travelled in. Only rows of many classes are first added up in float32, some uploads at a time,
since nearly half of the time would go into widening them. A mean of so few uploads that they all
fit into that lane needs no float64 table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from fedkd.aggregators.base import Lane, Sums
from fedkd.types import Knowledge, Space

WIDE = 64
"""From this many classes on, rows pass through a float32 lane on the CPU."""
LANE = 256
"""Uploads in a lane before it is emptied into the float64 sums. A sum of that many is off by at
most 255 half units in the last place of float32 (a few in practice), and no sum by more, however
many uploads there are."""
NARROW = (torch.float32, torch.float16, torch.bfloat16)
"""What a lane takes."""
WORTHWHILE = 8
"""Emptying a lane touches every row: an upload of fewer than one row in this many goes past it."""
SLIM = 16
"""Up to this many classes, adding a whole table is cheaper than adding rows one by one, ..."""
CROWDED = 0.45
"""... when an upload holds at least this share of the rows."""
BLOCK = 32_768
"""Numbers that are widened at a time, so that they stay in the cache until they are added."""

Facts = dict[str, str | float]
"""What is no tensor in a state of sums; JSON can hold it."""


def weighted_sums(upload: Knowledge, *, n_rows: int) -> Sums:
    """Spread one upload over the whole proxy set, in float64."""
    return settled(_folded(_nothing(upload, n_rows=n_rows), upload, lane=False))


def fold(state: Sums | None, upload: Knowledge, *, n_rows: int) -> Sums:
    """Add one upload to sums in place and return them; ``state`` itself is not to be used again.

    The same uploads in the same order give the same bits, wherever and whenever they are folded.
    One upload alone gives those of :func:`weighted_sums`.

    Args:
        state: sums that the caller owns, or None to begin some.
        upload: of the space and temperature of the others, which is the caller's to check.
        n_rows: rows of the proxy set.
    """
    began = _nothing(upload, n_rows=n_rows) if state is None else state
    return _folded(began, upload, lane=True)


def settled(state: Sums) -> Sums:
    """Return the sums, all of them in the float64 table; in place, and any number of times."""
    table, lane = _table(state), state.lane
    if lane is None or lane.uploads == 0:
        return state
    _add_all(table, lane.scores)
    state.mass.add_(lane.keepers)
    state.keepers.add_(lane.keepers.long())
    lane.scores.zero_()
    lane.keepers.zero_()
    lane.uploads = 0
    return state


def quotients(state: Sums, rows: Tensor) -> Tensor:
    """Return the sums of some rows over their masses, float32 ``[len(rows), classes]``.

    Divided in float64 block by block: the bits are those of :func:`settled` sums that are divided
    at once, without another table of their size.
    """
    if state.lane is not None and not len(state.scores):
        sums, mass = state.lane.scores, state.lane.keepers
    else:
        settled(state)
        sums, mass = state.scores, state.mass
    found = torch.empty(len(rows), sums.shape[1], device=sums.device)
    size = max(1, len(rows) if sums.is_cuda else BLOCK // sums.shape[1])
    for part, some in zip(found.split(size), rows.split(size), strict=True):
        part.copy_(sums.index_select(0, some).double().div_(mass[some, None]))
    return found


def kept(state: Sums) -> Tensor:
    """Return how many uploads hold each row, int64 ``[proxy]``."""
    return state.keepers if state.lane is None else state.keepers + state.lane.keepers.long()


def add(left: Sums, right: Sums) -> Sums:
    """Return the sums over both sets of uploads, in float64; both stay as they are."""
    left, right = settled(left), settled(right)
    told = None
    if left.row_temperatures is not None and right.row_temperatures is not None:
        told = left.row_temperatures + right.row_temperatures
    return Sums(
        scores=left.scores + right.scores,
        mass=left.mass + right.mass,
        keepers=left.keepers + right.keepers,
        space=left.space,
        temperature=left.temperature,
        row_temperatures=told,
    )


def sums_to_tensors(state: Sums) -> tuple[dict[str, Tensor], Facts]:
    """Return sums as named tensors and the facts beside them, to cross to another process."""
    state = settled(state)
    tensors = {"scores": state.scores, "mass": state.mass, "keepers": state.keepers}
    if state.row_temperatures is not None:
        tensors["row_temperatures"] = state.row_temperatures
    return tensors, {"space": state.space.value, "temperature": state.temperature}


def sums_from_tensors(tensors: dict[str, Tensor], facts: Facts) -> Sums:
    """Return the sums that :func:`sums_to_tensors` was given, to the bit."""
    return Sums(
        scores=tensors["scores"],
        mass=tensors["mass"],
        keepers=tensors["keepers"],
        space=Space(str(facts["space"])),
        temperature=float(facts["temperature"]),
        row_temperatures=tensors.get("row_temperatures"),
    )


def _nothing(upload: Knowledge, *, n_rows: int) -> Sums:
    scores = upload.scores
    mass = torch.zeros(n_rows, dtype=torch.float64, device=scores.device)
    return Sums(
        scores=mass.new_zeros(0, scores.shape[1]),
        mass=mass,
        keepers=torch.zeros(n_rows, dtype=torch.int64, device=scores.device),
        space=upload.space,
        temperature=upload.temperature,
        row_temperatures=None if upload.row_temperatures is None else torch.zeros_like(mass),
    )


def _table(state: Sums) -> Tensor:
    """Return the float64 scores, which take memory from now on."""
    shape = (state.mass.numel(), state.scores.shape[1])
    if state.scores.shape != shape:
        state.scores.resize_(shape).zero_()
    return state.scores


def _folded(state: Sums, upload: Knowledge, *, lane: bool) -> Sums:
    rows, told = upload.rows, upload.row_temperatures
    if not rows.numel():
        return state
    # On a GPU the product costs less than waiting to hear whether it is needed.
    hard = not rows.is_cuda and _all_ones(upload.weights)
    if hard and lane and told is None and _passes_lane(upload.scores, n_rows=state.mass.numel()):
        return _through_lane(state, upload)
    weights = upload.weights.double()
    state.mass.scatter_add_(0, rows, weights)
    state.keepers.scatter_add_(0, rows, torch.ones_like(rows))
    if told is not None and state.row_temperatures is not None:
        state.row_temperatures.scatter_add_(0, rows, told.double() * weights)
    scores = upload.scores if hard else upload.scores.double() * weights[:, None]
    _add_rows(_table(state), rows, scores)
    return state


def _all_ones(weights: Tensor) -> bool:
    least, most = torch.aminmax(weights)
    return float(least) == 1 == float(most)


def _passes_lane(scores: Tensor, *, n_rows: int) -> bool:
    held, n_classes = scores.shape
    return n_classes >= WIDE and held * WORTHWHILE >= n_rows and scores.dtype in NARROW


def _through_lane(state: Sums, upload: Knowledge) -> Sums:
    rows = upload.rows
    if state.lane is None:
        keepers = torch.zeros_like(state.mass, dtype=torch.float32)
        scores = keepers.new_zeros(keepers.numel(), upload.scores.shape[1])
        state = replace(state, lane=Lane(scores=scores, keepers=keepers))
    elif state.lane.uploads == LANE:
        settled(state)
    lane = cast("Lane", state.lane)
    lane.keepers.scatter_add_(0, rows, upload.weights.float())
    _add_rows(lane.scores, rows, upload.scores)
    lane.uploads += 1
    return state


def _add_rows(sums: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add ``values`` to some rows of ``sums``, each of which is named once, ascending."""
    (n_rows, n_classes), held = sums.shape, rows.numel()
    if held == n_rows:
        _add_all(sums, values)
    elif n_classes <= SLIM and held >= CROWDED * n_rows:
        table = values.new_zeros(held + 1, n_classes, dtype=sums.dtype)
        table[:-1] = values
        place = torch.full((n_rows,), held, device=rows.device)
        place[rows] = torch.arange(held, device=rows.device)
        sums.add_(table.index_select(0, place))
    else:
        sums.index_add_(0, rows, values.to(sums.dtype))


def _add_all(sums: Tensor, values: Tensor) -> None:
    if values.dtype == sums.dtype or sums.is_cuda:
        sums.add_(values)
        return
    size = max(1, BLOCK // sums.shape[1])
    for part, block in zip(sums.split(size), values.split(size), strict=True):
        part.add_(block.to(sums.dtype))
