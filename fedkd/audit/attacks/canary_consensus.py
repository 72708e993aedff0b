"""Ranks every canary's candidate secrets by the consensus that all clients are sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.findings import Result, extraction
from fedkd.audit.scoring import lineups
from fedkd.audit.suspects import losses_from, origin, unit_of, why_not
from fedkd.audit.views import Adversary, Channel, NotSeen, View


@attacks.register("canary_consensus")
@dataclass(frozen=True)
class CanarySurrogateConsensus(Attack):
    """A client that holds no copy of a canary looks for its secret.

    Scores of a canary's own proxy row are read directly; what is not in the proxy set is asked of
    a surrogate distilled from the last consensus.

    Attributes:
        exact_up_to: all secrets are ranked when there are at most so many.
        references: otherwise each canary is ranked among so many drawn ones.
        passes: of the surrogate over the consensus.
    """

    adversary: ClassVar[Adversary] = Adversary.CLIENT
    channel: ClassVar[Channel] = Channel.CONSENSUS
    exact_up_to: Annotated[int, Ge(2)] = 1000
    references: Annotated[int, Ge(1)] = 1000
    passes: Annotated[int, Ge(1)] = 20

    def applies(self, bench: Bench, truth: Truth) -> str:
        """There must be canaries, a consensus, and a client that does not hold the canary."""
        if any(len(c.holders) >= bench.scenario.clients for c in truth.planted.canaries):
            return "every client holds the canaries, so there is nobody to find their secrets out"
        return why_not(bench, truth, canaries=True, knowledge=True)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Read what can be read, ask a surrogate for the rest."""
        canaries = truth.planted.canaries
        sent = [one for one in map(view.consensus, view.rounds()) if len(one)]
        if not sent:
            raise NotSeen("no consensus about any row was kept")
        line = lineups(
            bench, canaries, references=self.references, exact_up_to=self.exact_up_to, rng=rng
        )
        losses, direct = losses_from(
            bench, line.each, sent, view.proxy(), passes=self.passes, seed=0
        )
        return Result(
            at_risk="canary secrets",
            extraction=extraction(
                line.exposures(losses),
                [c.insertions for c in canaries],
                extrapolations=line.extrapolations(losses, rng=rng),
                delta=bench.scenario.privacy.delta,
                rng=rng,
            ),
            bound_unit=unit_of(canaries),
            note=f"{line.note} {origin(bench, line.each, sum(direct))} All clients are sent the "
            "same, so each canary counts as seen by a client that does not hold it.",
        )
