"""What a protector is: it changes scores before they leave a client, never the choice of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.privacy.events import Event
from fedkd.registry import Registry
from fedkd.types import Consensus, Knowledge, ProxySet, Space, Wire


@dataclass(frozen=True, eq=False, kw_only=True)
class Context:
    """The surroundings of an upload that a protector may use.

    Attributes:
        proxy: the proxy set.
        consensus: the newest consensus, None in round 1.
        temperature: the distiller's teacher temperature: what plain distillation softens with.
        closeness: float32 ``[proxy]`` in [0, 1], how close each proxy row lies to the client's
            private examples. Calling it reads private data; only what declares so may.
    """

    proxy: ProxySet
    consensus: Consensus | None
    temperature: float = 1.0
    closeness: Callable[[], Tensor] | None = None


class Protector(ABC):
    """Applied by the client to whatever knowledge a method made."""

    @property
    def keeps_logits(self) -> bool:
        """Whether logits come out as logits; no distiller that reads them can follow otherwise."""
        return True

    @property
    def needs_logits(self) -> bool:
        """Whether it refuses probabilities, so that nothing that makes them can go before."""
        return False

    @property
    def reads_private(self) -> bool:
        """Whether it looks at private examples, beyond the scores it is given."""
        return False

    @property
    def adds_noise(self) -> bool:
        """Whether its output is random; without noise, nothing hinders who knows the protector."""
        return False

    def check(self, *, temperature: float) -> None:  # noqa: B027 - most protectors fit any
        """Raise ConfigError when it cannot work with the distiller's teacher temperature."""

    def row_temperatures(self, *, temperature: float) -> tuple[float, float] | None:
        """Return the least and largest temperature it tells row by row, None when it tells none.

        Args:
            temperature: the distiller's teacher temperature.
        """
        return None

    def projected_mass(self, *, n_classes: int) -> tuple[float, float] | None:
        """Return the least and largest mass that its projection of a noisy row moves on average.

        The mass of a row is one, and noise can move more than that; None where nothing is
        projected. Worked out from public settings, over all rows there could be: what was moved on
        the rows of a run is computed from private scores and stays with the client.
        """
        return None

    @abstractmethod
    def protect(self, knowledge: Knowledge, context: Context, *, rng: torch.Generator) -> Knowledge:
        """Return knowledge about the same rows; randomness only from ``rng``."""

    @abstractmethod
    def event(self, *, n_rows: int) -> Event:
        """Return what one upload about at most ``n_rows`` rows tells about a whole client."""


def softened(knowledge: Knowledge, *, temperature: float) -> Knowledge:
    """Return knowledge as probabilities at a temperature; probabilities pass unchanged."""
    if knowledge.space is Space.PROBS:
        return knowledge
    scores = torch.softmax(knowledge.scores / temperature, dim=1)
    return replace(knowledge, scores=scores, space=Space.PROBS, temperature=temperature)


def logits_of(knowledge: Knowledge) -> Tensor:
    """Return raw scores, ``[n, classes]``, what is not finite as 0; ValueError for probabilities.

    No noise hides a number that is not finite, and no clipping bounds it.
    """
    if knowledge.space is not Space.LOGITS:
        raise ValueError(
            f"{knowledge.space.value} where logits are needed; put this protector first"
        )
    return knowledge.scores.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def rest_of(knowledge: Knowledge) -> Tensor:
    """Return the probability, ``[n, 1]``, that a row's own classes leave to all others."""
    return (1 - knowledge.scores.sum(dim=1, keepdim=True)).clamp(min=0)


def dense(knowledge: Knowledge, *, n_classes: int) -> Knowledge:
    """Return knowledge about some classes of each row as knowledge about all of them.

    What is left is spread evenly over the classes a row does not name. Anything else, such as
    logits, passes unchanged.
    """
    classes = knowledge.classes
    if classes is None or classes.dim() != 2:
        return knowledge
    named = replace(knowledge, scores=knowledge.scores.float())
    others = max(1, n_classes - classes.shape[1])
    scores = (rest_of(named) / others).repeat(1, n_classes)
    scores = scores.scatter(1, classes, named.scores)
    return replace(named, scores=scores, classes=None, bits=None, wire=Wire.FLOAT32)


protectors = Registry("protector", Protector, package="fedkd.protectors")
