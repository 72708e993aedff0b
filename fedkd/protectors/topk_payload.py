"""Only each row's largest probabilities leave, with the names of their classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge

from fedkd.privacy.events import Event, Uncounted
from fedkd.protectors.base import Context, Protector, protectors, softened
from fedkd.types import Knowledge


@protectors.register("topk_payload")
@dataclass(frozen=True)
class TopKPayload(Protector):
    """Keeps ``k`` classes of a row; the reader spreads the rest evenly over the others.

    A row takes k floats and k class numbers of one byte (two from 257 classes on), whatever the
    number of classes. Privacy: saves bytes, protects nothing that can be counted.

    Attributes:
        k: classes kept; all of them when there are no more.
    """

    k: Annotated[int, Ge(1)] = 3

    @property
    def keeps_logits(self) -> bool:
        """It makes probabilities."""
        return False

    def protect(self, knowledge: Knowledge, context: Context, *, rng: torch.Generator) -> Knowledge:
        """Return probabilities ``[n, k]``, largest first, and their classes."""
        soft = softened(knowledge, temperature=context.temperature)
        top = soft.scores.topk(min(self.k, soft.scores.shape[1]), dim=1)
        classes = top.indices if soft.classes is None else soft.classes.gather(1, top.indices)
        return replace(soft, scores=top.values, classes=classes)

    def event(self, *, n_rows: int) -> Event:
        """Nothing bounds what the largest probabilities tell."""
        return Uncounted("the largest probabilities leave as they are")
