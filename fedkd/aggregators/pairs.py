"""How alike any two uploads are on the rows that both kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.aggregators.ballots import BLOCK, Ballots
from fedkd.types import Knowledge


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """Figures about pairs of uploads; NaN where two share no row, and between one and itself.

    Attributes:
        distances: float64 ``[uploads, uploads]``, mean over shared rows of the squared distance.
        cosines: float64 ``[uploads, uploads]``, of all shared scores taken as one vector.
    """

    distances: Tensor
    cosines: Tensor

    def judged(self) -> Tensor:
        """Return which uploads share a row with any other, bool ``[uploads]``."""
        return ~self.distances.isnan().all(dim=1)


def compared(state: Ballots) -> Pairs:
    """Compare all uploads, in blocks of rows; weights do not matter.

    Args:
        state: at least one upload.
    """
    uploads = state.uploads
    n, device = len(uploads), uploads[0].scores.device
    products = torch.zeros(n, n, dtype=torch.float64, device=device)
    lengths, shared = torch.zeros_like(products), torch.zeros_like(products)
    size = max(1, BLOCK // (n * uploads[0].scores.shape[1]))
    for start in range(0, state.n_rows, size):
        scores, kept = _table(uploads, start, min(start + size, state.n_rows))
        products += torch.einsum("irc,jrc->ij", scores, scores)
        lengths += torch.einsum("irc,jr->ij", scores.square(), kept)
        shared += kept @ kept.T
    strangers = (shared == 0).fill_diagonal_(fill_value=True)
    distances = (lengths + lengths.T - 2 * products).clamp(min=0) / shared.clamp(min=1)
    cosines = products / (lengths * lengths.T).sqrt().clamp(min=torch.finfo(products.dtype).tiny)
    return Pairs(
        distances=distances.masked_fill(strangers, torch.nan),
        cosines=cosines.masked_fill(strangers, torch.nan),
    )


def only(state: Ballots, kept: Tensor) -> Ballots:
    """Return the ballots that a bool ``[uploads]`` names, as if the others had not come."""
    named = zip(state.uploads, kept.tolist(), strict=True)
    return Ballots(uploads=tuple(upload for upload, stays in named if stays), n_rows=state.n_rows)


def _table(uploads: tuple[Knowledge, ...], start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return scores ``[uploads, rows, classes]``, zero where not kept, and what is kept."""
    one = uploads[0].scores
    scores = one.new_zeros(len(uploads), stop - start, one.shape[1], dtype=torch.float64)
    kept = one.new_zeros(len(uploads), stop - start, dtype=torch.float64)
    ends = torch.tensor([start, stop], device=one.device)
    for n, upload in enumerate(uploads):
        low, high = torch.searchsorted(upload.rows, ends).tolist()
        rows = upload.rows[low:high] - start
        scores[n, rows] = upload.scores[low:high].double()
        kept[n, rows] = 1
    return scores, kept
