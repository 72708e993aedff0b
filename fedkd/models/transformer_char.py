"""A small causal transformer of characters (Vaswani et al. 2017), of layers DP-SGD can clip.

Paper: https://arxiv.org/abs/1706.03762. Norms come before each part, as in GPT-2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from fedkd.errors import ConfigError
from fedkd.models.base import Model, models
from fedkd.models.sequences import positions_of


@models.register("transformer_char")
@dataclass(frozen=True)
class TransformerChar(Model):
    """Embeddings of tokens and positions, blocks of causal attention and two layers, linear.

    Attributes:
        width: numbers that stand for a token; a multiple of ``heads``.
        heads: of the attention.
        blocks: how many.
    """

    tokens: ClassVar[bool] = True
    width: Annotated[int, Ge(1)] = 96
    heads: Annotated[int, Ge(1)] = 4
    blocks: Annotated[int, Ge(1)] = 2

    def __post_init__(self) -> None:
        """Refuse a width that the heads cannot share."""
        if self.width % self.heads:
            raise ConfigError(
                f"width: {self.width} is no multiple of heads={self.heads}; "
                f"give {self.width - self.width % self.heads or self.heads}"
            )

    def build(self, input_shape: tuple[int, ...], n_classes: int) -> nn.Module:
        """Return a fresh module; ConfigError when the inputs are no sequences."""
        n_positions = positions_of(input_shape, model="transformer_char")
        blocks = [_Block(self.width, heads=self.heads) for _ in range(self.blocks)]
        return _Transformer(n_classes, n_positions, width=self.width, blocks=blocks)


class _Transformer(nn.Module):
    def __init__(
        self, n_tokens: int, n_positions: int, *, width: int, blocks: list[_Block]
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(n_tokens, width)
        self.position = nn.Embedding(n_positions, width)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``[n, positions, tokens]`` of int64 ``[n, positions]``."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        states = self.blocks(self.token(tokens) + self.position(places))
        return self.head(self.norm(states))


class _Block(nn.Module):
    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.out(self._attended(self.first(states)))
        return states + self.narrow(functional.gelu(self.wide(self.second(states))))

    def _attended(self, states: Tensor) -> Tensor:
        split = self.asked(states).unflatten(2, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [n, heads, positions, width]
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)
