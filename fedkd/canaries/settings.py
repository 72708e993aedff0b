"""The scenario's group ``canaries``: what is planted, how often, and where it may go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from fedkd.canaries.base import Canary, CanaryFamily
from fedkd.canaries.secret_label import SecretLabel
from fedkd.data.datasets.base import Arrays
from fedkd.errors import ConfigError
from fedkd.rng import numpy_stream


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """What is planted into the clients' private data before a run.

    Privacy: canaries are for audits. They make a model worse in proportion to their number.

    Attributes:
        family: what they look like.
        insertions: one group of canaries for each number of training examples of it.
        per_level: canaries in a group.
        holders: clients that hold a canary, each with all its insertions.
        in_proxy: their examples are contributed to a pooled proxy set like any others; an
            external one gets each canary's input once, as a server would that crafts its
            questions, which is refused where the input gives the secret away. Otherwise never.
    """

    family: CanaryFamily = field(default_factory=SecretLabel)
    insertions: tuple[Annotated[int, Ge(1)], ...] = (1, 4, 16, 64)
    per_level: Annotated[int, Ge(1)] = 10
    holders: Annotated[int, Ge(1)] = 1
    in_proxy: bool = False

    def __post_init__(self) -> None:
        """Refuse no levels, and the same level twice."""
        if not self.insertions or len(set(self.insertions)) < len(self.insertions):
            raise ConfigError(
                f"insertions: {list(self.insertions)!r} must name each level once, such as [1, 16]"
            )

    def draw(self, arrays: Arrays, *, n_clients: int, seed: int) -> tuple[Canary, ...]:
        """Draw every canary's secret and holders; ConfigError for more holders than clients."""
        if self.holders > n_clients:
            raise ConfigError(f"holders: {self.holders} is more than clients={n_clients}")
        rng, n_secrets = numpy_stream(seed, "canaries"), self.family.n_secrets(arrays)
        levels = [level for level in self.insertions for _ in range(self.per_level)]
        return tuple(
            Canary(
                number=number,
                seed=seed,
                secret=int(rng.integers(n_secrets)),
                insertions=level,
                holders=tuple(sorted(rng.choice(n_clients, self.holders, replace=False).tolist())),
            )
            for number, level in enumerate(levels)
        )
