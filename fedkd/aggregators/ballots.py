"""Uploads kept one by one, for the rules that look at each of them.

A rule sees rows in blocks: some rows that the same number of clients kept, so that nothing is
padded and a row's own keepers are all there is. Beside the uploads themselves, memory holds one
block, however many rows and clients there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.aggregators.base import Sums
from fedkd.aggregators.mean import mean_of
from fedkd.aggregators.middle import weighted_median
from fedkd.aggregators.streaming import fold
from fedkd.errors import ConfigError
from fedkd.types import Consensus, Knowledge, Space

BLOCK = 1 << 20
"""Numbers that a rule is given at a time, at most."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Ballots:
    """The uploads of a round.

    Attributes:
        uploads: in the order they were folded, which no result depends on.
        n_rows: rows of the proxy set.
    """

    uploads: tuple[Knowledge, ...]
    n_rows: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Some rows that the same number of clients kept.

    Attributes:
        rows: int64 ``[rows]``, positions among the proxy set's rows.
        scores: float64 ``[rows, keepers, classes]``.
        weights: float64 ``[rows, keepers]``.
        voters: int64 ``[rows, keepers]``, which of the uploads a keeper is.
        told: float64 ``[rows, keepers]``, the temperatures told row by row, or None.
    """

    rows: Tensor
    scores: Tensor
    weights: Tensor
    voters: Tensor
    told: Tensor | None


Rule = Callable[[Block], Tensor]
"""Turns a block of at least two keepers into scores, float64 ``[rows, classes]``."""


def ballot(upload: Knowledge, *, n_rows: int) -> Ballots:
    """Return the state that keeps one upload; ConfigError for logits, which have no bound."""
    if upload.space is not Space.PROBS:
        raise ConfigError(
            f"a robust aggregator compares probabilities, and these scores are in the space "
            f"{upload.space.value!r}; use a distiller that reads probabilities, such as kl"
        )
    return Ballots(uploads=(upload,), n_rows=n_rows)


def joined(left: Ballots, right: Ballots) -> Ballots:
    """Return the uploads of both."""
    return Ballots(uploads=left.uploads + right.uploads, n_rows=left.n_rows)


def spoken(state: Ballots) -> Ballots:
    """Return the ballots without those that say nothing, so that a silent client leaves no trace.

    One stays when nobody says anything.
    """
    uploads = tuple(upload for upload in state.uploads if len(upload))
    return Ballots(uploads=uploads or state.uploads[:1], n_rows=state.n_rows)


def blocks(state: Ballots) -> Iterator[Block]:
    """Yield every row that somebody kept, in blocks."""
    uploads = spoken(state).uploads
    size = max(1, BLOCK // (len(uploads) * uploads[0].scores.shape[1]))
    edges = torch.arange(0, state.n_rows + size, size)
    cuts = [torch.searchsorted(u.rows, edges.to(u.rows.device)).tolist() for u in uploads]
    for n in range(len(edges) - 1):
        parts = [slice(cut[n], cut[n + 1]) for cut in cuts]
        yield from _alike(uploads, parts)


def decided(state: Ballots, rule: Rule) -> Consensus:
    """Return what a rule makes of every row; a row's only keeper is taken at its word.

    A temperature that is told row by row becomes the weighted median of a row's keepers.
    """
    rows: list[Tensor] = []
    scores: list[Tensor] = []
    keepers: list[Tensor] = []
    told: list[Tensor] = []
    for block in blocks(state):
        alone = block.scores.shape[1] == 1
        rows.append(block.rows)
        scores.append(block.scores[:, 0] if alone else rule(block))
        keepers.append(torch.full_like(block.rows, block.scores.shape[1]))
        if block.told is not None:
            told.append(weighted_median(block.told[:, :, None], block.weights)[:, 0])
    one = state.uploads[0]
    if not rows:
        return Consensus(
            rows=one.rows[:0],
            scores=one.scores[:0],
            space=one.space,
            temperature=one.temperature,
            keepers=one.rows[:0],
            row_temperatures=one.row_temperatures,
        )
    order = torch.cat(rows).argsort()
    return Consensus(
        rows=torch.cat(rows)[order],
        scores=torch.cat(scores)[order].float(),
        space=one.space,
        temperature=one.temperature,
        keepers=torch.cat(keepers)[order],
        row_temperatures=torch.cat(told)[order].float() if told else None,
    )


def averaged(state: Ballots) -> Consensus:
    """Return the weighted mean of every row, bit by bit as the aggregator ``mean`` takes it."""
    sums: Sums | None = None
    for upload in state.uploads:
        sums = fold(sums, upload, n_rows=state.n_rows)
    if sums is None:
        raise ValueError("no uploads to average")
    return mean_of(sums)


def weighted_mean(block: Block) -> Tensor:
    """Return the mean of a block's scores by weight, ``[rows, classes]``."""
    total = torch.einsum("nk,nkc->nc", block.weights, block.scores)
    return total / block.weights.sum(dim=1, keepdim=True)


def normalized(scores: Tensor, block: Block) -> Tensor:
    """Return rows that sum to one; a row of zeros becomes the block's mean.

    What is done class by class does not sum to one. All classes are zero where most keepers are
    sure and no two of them agree: then there is no majority to follow.
    """
    mass = scores.sum(dim=1, keepdim=True)
    lost = mass <= torch.finfo(scores.dtype).tiny
    return torch.where(lost, weighted_mean(block), scores / mass.masked_fill(lost, 1))


def _alike(uploads: tuple[Knowledge, ...], parts: list[slice]) -> Iterator[Block]:
    """Yield some rows, those with equally many keepers together."""
    rows = torch.cat([u.rows[part] for u, part in zip(uploads, parts, strict=True)])
    if not len(rows):
        return
    scores = torch.cat([u.scores[part] for u, part in zip(uploads, parts, strict=True)])
    weights = torch.cat([u.weights[part] for u, part in zip(uploads, parts, strict=True)])
    counts = torch.tensor([part.stop - part.start for part in parts], device=rows.device)
    voters = torch.repeat_interleave(torch.arange(len(parts), device=rows.device), counts)
    told = _told(uploads, parts)
    order = rows.argsort(stable=True)
    _, place, keepers = rows[order].unique_consecutive(return_inverse=True, return_counts=True)
    each = keepers[place]
    for n_keepers in keepers.unique().tolist():
        some = order[each == n_keepers].view(-1, n_keepers)
        yield Block(
            rows=rows[some[:, 0]],
            scores=scores[some].double(),
            weights=weights[some].double(),
            voters=voters[some],
            told=None if told is None else told[some].double(),
        )


def _told(uploads: tuple[Knowledge, ...], parts: list[slice]) -> Tensor | None:
    told = [u.row_temperatures for u in uploads]
    known = [t[part] for t, part in zip(told, parts, strict=True) if t is not None]
    return torch.cat(known) if len(known) == len(uploads) else None
