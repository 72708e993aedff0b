"""Probabilities in a few bits each, as in CFD: Sattler et al. 2020, https://arxiv.org/abs/2012.00632."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from fedkd.privacy.events import Event, Uncounted
from fedkd.protectors.base import Context, Protector, protectors, rest_of, softened
from fedkd.types import Knowledge


@protectors.register("quantize")
@dataclass(frozen=True)
class Quantize(Protector):
    """Deals out 2^bits - 1 units to the classes of a row; each class travels in ``bits`` bits.

    By largest remainder, so that every row still sums to one and no class overtakes another.
    One bit is the one-hot vector of the largest probability, as in CFD; how more bits are rounded
    is our choice. Privacy: saves bytes, protects nothing that can be counted.

    Attributes:
        bits: of one probability. Few bits cannot tell classes of a nearly even row apart: with 4,
            the 15 units of ten classes tie, and a tie goes to the lowest class. After
            ``topk_payload``, the rest that the reader spreads takes part in the apportionment and
            needs no bits of its own.
    """

    bits: Annotated[int, Ge(1), Le(16)] = 8

    @property
    def keeps_logits(self) -> bool:
        """It makes probabilities."""
        return False

    def protect(self, knowledge: Knowledge, context: Context, *, rng: torch.Generator) -> Knowledge:
        """Return probabilities that are whole multiples of 1 / (2^bits - 1)."""
        soft = softened(knowledge, temperature=context.temperature)
        shares = soft.scores
        if soft.classes is not None:
            shares = torch.cat([shares, rest_of(soft)], dim=1)
        total = 2**self.bits - 1
        units = apportion(shares, total)[:, : soft.scores.shape[1]]
        return replace(soft, scores=units.to(soft.scores.dtype) / total, bits=self.bits)

    def event(self, *, n_rows: int) -> Event:
        """Nothing bounds what rounded probabilities tell."""
        return Uncounted("rounded probabilities leave without noise")


def apportion(shares: Tensor, total: int) -> Tensor:
    """Deal ``total`` units out to the classes of each row by largest remainder, int64 ``[n, c]``.

    Ties go to the lower class. Every row of ``shares`` is positive somewhere, negative nowhere.
    """
    exact = shares.double() * (total / shares.double().sum(dim=1, keepdim=True))
    whole = exact.floor()
    left = total - whole.sum(dim=1, keepdim=True)
    order = (exact - whole).argsort(dim=1, descending=True, stable=True)
    return (whole + (order.argsort(dim=1) < left)).long()
