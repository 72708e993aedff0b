"""k-means of many small sets of rows at once: Lloyd's steps on a batch in place of a fit for each.

The same steps as scikit-learn's ``KMeans``: its greedy k-means++ (Arthur & Vassilvitskii 2007) from
the same draws, its updates and its stopping rule, in float64. So centroids agree with it to float32
rounding, and those of a set do not tell with which others it was fitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

STEPS, TOLERANCE = 300, 1e-4
"""scikit-learn's defaults: most steps; a fit ends when the squared shifts of all centroids sum to
at most the tolerance times the mean variance of a column."""
BLOCK = 2_000_000
"""Numbers that are fitted at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Points:
    """One set of rows to be clustered.

    Attributes:
        rows: float32 ``[n, d]``; all sets of one call share ``d`` and the device.
        n_clusters: at most the number of different rows.
        seed: as of ``KMeans(random_state=seed)``.
    """

    rows: Tensor
    n_clusters: int
    seed: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Sets:
    """Some sets side by side, padded to the largest, around their means; sets come first.

    Attributes:
        rows: float64 ``[sets, n, d]``, zeros where there is no row.
        held: float64 ``[sets, n]``, 1 where there is a row, else 0.
        unused: bool ``[sets, k]``, where there is no centroid.
        limit: float64 ``[sets]``, of the squared shifts.
        places: int64 ``[sets]``, which of the sets given each is.
    """

    rows: Tensor
    held: Tensor
    unused: Tensor
    limit: Tensor
    places: Tensor

    def only(self, chosen: Tensor) -> Sets:
        """Return some of the sets."""
        return Sets(**{part.name: getattr(self, part.name)[chosen] for part in fields(self)})


def lloyd(given: Sequence[Points]) -> list[Tensor | None]:
    """Return the centroids of each set, float32 ``[clusters, d]``, started by k-means++.

    None stands for a set in which a centroid lost all its rows; scikit-learn moves it elsewhere.
    """
    found: list[Tensor | None] = [None] * len(given)
    for block in _blocks(given):
        some = [given[i] for i in block]
        sets, mean = side_by_side(some)
        centers = lloyd_from(sets, plus_plus(sets, some))
        for i, points, center, shift in zip(block, some, centers, mean, strict=True):
            whole = center is not None
            found[i] = (center[: points.n_clusters] + shift).float() if whole else None
    return found


def side_by_side(given: Sequence[Points]) -> tuple[Sets, Tensor]:
    """Return the sets around their means, and those, ``[sets, 1, d]``."""
    device = given[0].rows.device
    counts = torch.tensor([len(points.rows) for points in given], device=device)
    clusters = torch.tensor([points.n_clusters for points in given], device=device)
    rows = pad_sequence([points.rows.double() for points in given], batch_first=True)
    held = (torch.arange(rows.shape[1], device=device) < counts[:, None]).double()
    mean = rows.sum(dim=1, keepdim=True) / counts[:, None, None]
    rows = (rows - mean) * held[:, :, None]
    sets = Sets(
        rows=rows,
        held=held,
        unused=torch.arange(int(clusters.max()), device=device) >= clusters[:, None],
        limit=TOLERANCE * (rows.square().sum(dim=1) / counts[:, None]).mean(dim=1),
        places=torch.arange(len(given), device=device),
    )
    return sets, mean


def plus_plus(sets: Sets, given: Sequence[Points]) -> Tensor:
    """Return rows that start as centroids, ``[sets, k, d]``.

    The first is drawn evenly. Of a few candidates for each next one, drawn with chances that grow
    with the squared distance to the nearest so far, the one that leaves least of those is taken.
    """
    rows, n_columns = sets.rows, sets.rows.shape[2]
    first, draws = _draws(given, device=rows.device)
    at = torch.arange(len(rows), device=rows.device)
    last = sets.held.sum(dim=1, keepdim=True).long() - 1
    norms = rows.square().sum(dim=2)
    centers = rows.new_zeros(len(rows), draws.shape[1] + 1, n_columns)
    centers[:, 0] = rows[at, first]
    nearest = _squared(rows, norms, centers[:, :1])[:, 0] * sets.held
    for k in range(draws.shape[1]):
        marks = draws[:, k] * nearest.sum(dim=1, keepdim=True)
        drawn = torch.minimum(torch.searchsorted(nearest.cumsum(dim=1), marks), last)
        candidates = rows.gather(1, drawn[:, :, None].expand(-1, -1, n_columns))
        left = torch.minimum(_squared(rows, norms, candidates), nearest[:, None])
        best = left.sum(dim=2).argmin(dim=1)
        nearest = left[at, best]
        centers[:, k + 1] = candidates[at, best]
    return centers


def lloyd_from(sets: Sets, start: Tensor) -> list[Tensor | None]:
    """Return the centroids, padded, that each set's steps end at; None where one lost its rows.

    Args:
        sets: rows around their means.
        start: float64 ``[sets, k, d]``, likewise.
    """
    found: list[Tensor | None] = [None] * len(sets.rows)
    centers, labels = start, sets.held.new_full(sets.held.shape, -1, dtype=torch.int64)
    running = torch.ones_like(sets.places, dtype=torch.bool)
    for left in reversed(range(STEPS)):
        moved, found_labels, sizes = _step(sets, centers)
        same = ((found_labels == labels) | (sets.held == 0)).all(dim=1)
        shift = (moved - centers).square().sum(dim=(1, 2))
        lost = ((sizes == 0) & ~sets.unused).any(dim=1)
        over = (same | (shift <= sets.limit) | lost) if left else torch.ones_like(lost)
        for i in torch.nonzero(over & running).flatten().tolist():
            found[int(sets.places[i])] = None if bool(lost[i]) else moved[i]
        centers, labels, running = moved, found_labels, running & ~over
        remaining = int(running.sum())
        if not remaining:
            break
        if 2 * remaining <= len(running):
            sets, centers, labels = sets.only(running), centers[running], labels[running]
            running = running[running]
    return found


def _step(sets: Sets, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return moved centroids, the label of each row, and how many rows each centroid has."""
    norms = centers.square().sum(dim=2)[:, None]
    pairs = torch.baddbmm(norms, sets.rows, centers.transpose(1, 2), alpha=-2)
    labels = pairs.masked_fill_(sets.unused[:, None], torch.inf).argmin(dim=2)
    belongs = torch.zeros_like(pairs).scatter_(2, labels[:, :, None], sets.held[:, :, None])
    sizes = belongs.sum(dim=1)
    sums = torch.bmm(belongs.transpose(1, 2), sets.rows)
    return sums / sizes.clamp(min=1)[:, :, None], labels, sizes


def _squared(rows: Tensor, norms: Tensor, centers: Tensor) -> Tensor:
    """Return squared distances, ``[sets, k, n]``."""
    ends = norms[:, None] + centers.square().sum(dim=2, keepdim=True)
    return torch.baddbmm(ends, centers, rows.transpose(1, 2), alpha=-2).clamp_(min=0)


def _draws(given: Sequence[Points], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return each set's first row, and its draws in [0, 1) for others, ``[sets, k - 1, trials]``.

    Fewer trials than others have are filled up with the first, which changes no choice.
    """
    most = max(points.n_clusters for points in given)
    draws = np.zeros((len(given), most - 1, _trials(most)))
    first: list[int] = []
    for place, points in zip(draws, given, strict=True):
        n, k, trials = len(points.rows), points.n_clusters, _trials(points.n_clusters)
        stream = np.random.RandomState(points.seed).random_sample(1 + (k - 1) * trials)
        first.append(min(int(stream[0] * n), n - 1))
        mine = stream[1:].reshape(k - 1, trials)
        place[: k - 1, :trials], place[: k - 1, trials:] = mine, mine[:, :1]
    return torch.tensor(first, device=device), torch.from_numpy(draws).to(device)


def _trials(n_clusters: int) -> int:
    return 2 + int(math.log(n_clusters))


def _blocks(given: Sequence[Points]) -> Iterator[list[int]]:
    """Yield which sets are fitted together: of like size, and not too many numbers."""
    block: list[int] = []
    for i in sorted(range(len(given)), key=lambda i: -given[i].rows.numel()):
        if block and (len(block) + 1) * given[block[0]].rows.numel() > BLOCK:
            yield block
            block = []
        block.append(i)
    if block:
        yield block
