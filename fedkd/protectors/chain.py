"""Several protectors, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch

from fedkd.errors import ConfigError
from fedkd.privacy.events import Event, Uncounted
from fedkd.protectors.base import Context, Protector, protectors
from fedkd.types import Knowledge


@protectors.register("chain")
@dataclass(frozen=True)
class Chain(Protector):
    """Applies ``parts`` in their order; none at all is no protection.

    Privacy: that of the first part with a guarantee, for what follows is post-processing of its
    output; none at all where a part reads private examples.

    Attributes:
        parts: protectors, such as ``[swing, {name: quantize, bits: 4}]``. One that reads logits
            cannot follow one that makes probabilities.
    """

    parts: tuple[Protector, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an order that cannot work."""
        soft: str | None = None
        for part in self.parts:
            name = protectors.name_of(part)
            if soft and part.needs_logits:
                raise ConfigError(
                    f"parts: {name!r} reads logits, but {soft!r} before it makes probabilities; "
                    f"put {name!r} first"
                )
            soft = soft or (None if part.keeps_logits else name)

    @property
    def keeps_logits(self) -> bool:
        """When all parts do."""
        return all(part.keeps_logits for part in self.parts)

    @property
    def needs_logits(self) -> bool:
        """When any part does: what comes before it has kept them."""
        return any(part.needs_logits for part in self.parts)

    @property
    def reads_private(self) -> bool:
        """When any part does."""
        return any(part.reads_private for part in self.parts)

    @property
    def adds_noise(self) -> bool:
        """When any part does."""
        return any(part.adds_noise for part in self.parts)

    def check(self, *, temperature: float) -> None:
        """Check every part."""
        for part in self.parts:
            part.check(temperature=temperature)

    def row_temperatures(self, *, temperature: float) -> tuple[float, float] | None:
        """Return the range of the part that tells them; two parts never do."""
        ranges = (part.row_temperatures(temperature=temperature) for part in self.parts)
        return next((told for told in ranges if told is not None), None)

    def projected_mass(self, *, n_classes: int) -> tuple[float, float] | None:
        """Return that of the part that projects; two parts never do."""
        found = (part.projected_mass(n_classes=n_classes) for part in self.parts)
        return next((moved for moved in found if moved is not None), None)

    def protect(self, knowledge: Knowledge, context: Context, *, rng: torch.Generator) -> Knowledge:
        """Apply the parts, which all draw from the one stream."""
        return reduce(lambda k, part: part.protect(k, context, rng=rng), self.parts, knowledge)

    def event(self, *, n_rows: int) -> Event:
        """Return the first event that is counted."""
        if self.reads_private:
            return Uncounted("a part of the chain reads private examples")
        events = (part.event(n_rows=n_rows) for part in self.parts)
        nothing = Uncounted("no part of the chain bounds what the scores tell")
        return next((event for event in events if event.counted), nothing)
