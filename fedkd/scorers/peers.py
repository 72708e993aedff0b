"""A client's scores beside the last consensus, for scorers that compare the two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.types import Consensus, Knowledge, Space


@dataclass(frozen=True, eq=False, kw_only=True)
class Beside:
    """Both sides as probabilities, on the rows that the consensus covers.

    Attributes:
        known: bool ``[n]``, the rows of the knowledge with a consensus.
        own: float32 ``[known, classes]``, the client's, at the temperature of the consensus.
        peers: float32 ``[known, classes]``, the consensus.
    """

    known: Tensor
    own: Tensor
    peers: Tensor


def beside(knowledge: Knowledge, consensus: Consensus | None) -> Beside:
    """Line up logits with the consensus; without one, or an empty one, no row is known."""
    logits = knowledge.scores
    if consensus is None or not len(consensus):
        known = torch.zeros(len(knowledge), dtype=torch.bool, device=logits.device)
        return Beside(known=known, own=logits[known], peers=logits[known])
    rows = consensus.rows.to(logits.device)
    place = torch.searchsorted(rows, knowledge.rows).clamp(max=len(rows) - 1)
    known = rows[place] == knowledge.rows
    place = place[known]
    scores = consensus.scores.to(logits.device)[place]
    temperatures = logits.new_full((len(place), 1), consensus.temperature)
    if consensus.row_temperatures is not None:
        temperatures = consensus.row_temperatures.to(logits.device)[place, None]
    return Beside(
        known=known,
        own=torch.softmax(logits[known] / temperatures, dim=1),
        peers=torch.softmax(scores, dim=1) if consensus.space is Space.LOGITS else scores,
    )


def spread(values: Tensor, known: Tensor, *, unknown: float) -> Tensor:
    """Return float32 ``[n]``: ``values`` where a row is known, ``unknown`` elsewhere."""
    likelihood = torch.full(known.shape, unknown, dtype=values.dtype, device=values.device)
    likelihood[known] = values
    return likelihood
