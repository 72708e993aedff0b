"""A small recurrent model of characters: gated recurrent units (Cho et al. 2014).

Paper: https://arxiv.org/abs/1406.1078.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from fedkd.models.base import Model, models
from fedkd.models.sequences import positions_of


@models.register("gru_char")
@dataclass(frozen=True)
class GRUChar(Model):
    """Embedding, one layer of gated recurrent units, linear.

    Privacy: a recurrent layer cannot be trained with DP-SGD here; use ``transformer_char``.

    Attributes:
        embedding: numbers that stand for a token.
        hidden: recurrent units.
    """

    tokens: ClassVar[bool] = True
    embedding: Annotated[int, Ge(1)] = 48
    hidden: Annotated[int, Ge(1)] = 128

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a fresh module; ConfigError when the inputs are no sequences."""
        positions_of(input_shape, model="gru_char")
        return _Recurrent(n_classes, embedding=self.embedding, hidden=self.hidden)


class _Recurrent(nn.Module):
    def __init__(self, n_tokens: int, *, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, embedding)
        self.recurrent = nn.GRU(embedding, hidden, batch_first=True)
        self.head = nn.Linear(hidden, n_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``[n, positions, tokens]`` of int64 ``[n, positions]``."""
        states, _ = self.recurrent(self.embedding(tokens))
        return self.head(states)
