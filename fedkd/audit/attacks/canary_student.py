"""Ranks every canary's candidate secrets by their loss under the final student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.findings import Result, extraction
from fedkd.audit.scoring import lineups, probe_losses
from fedkd.audit.suspects import unit_of, why_not
from fedkd.audit.views import Adversary, Channel, View


@attacks.register("canary_student")
@dataclass(frozen=True)
class CanaryStudent(Attack):
    """Exposure after Carlini et al. 2019, https://arxiv.org/abs/1802.08232.

    Attributes:
        exact_up_to: all secrets are ranked when there are at most so many.
        references: otherwise each canary is ranked among so many drawn ones.
    """

    adversary: ClassVar[Adversary] = Adversary.STUDENT_HOLDER
    channel: ClassVar[Channel] = Channel.STUDENT
    exact_up_to: Annotated[int, Ge(2)] = 1000
    references: Annotated[int, Ge(1)] = 1000

    def applies(self, bench: Bench, truth: Truth) -> str:
        """There must be canaries."""
        return why_not(bench, truth, canaries=True, knowledge=False)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Score each candidate in the canary's place."""
        student, canaries = bench.load(view.student()), truth.planted.canaries
        line = lineups(
            bench,
            canaries,
            references=self.references,
            exact_up_to=self.exact_up_to,
            rng=rng,
        )
        losses = np.stack([probe_losses(student, one.probes, task=bench.task) for one in line.each])
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
            note=line.note,
        )
