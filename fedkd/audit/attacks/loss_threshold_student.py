"""Takes examples that the final student finds easy for members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.fair import compared, judged, suspects_of_all, unlike
from fedkd.audit.findings import Result
from fedkd.audit.scoring import example_losses
from fedkd.audit.views import Adversary, Channel, View


@attacks.register("loss_threshold_student")
@dataclass(frozen=True)
class LossThresholdStudent(Attack):
    """Yeom et al. 2018, https://arxiv.org/abs/1709.01604; the score is minus the loss."""

    adversary: ClassVar[Adversary] = Adversary.STUDENT_HOLDER
    channel: ClassVar[Channel] = Channel.STUDENT

    def applies(self, bench: Bench, truth: Truth) -> str:
        """It runs wherever there is a student."""
        return ""

    def set_aside(self, bench: Bench) -> str:
        """Texts cannot be matched."""
        return unlike(bench.task)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Compare the members of all clients with as many non-members of the same classes."""
        student = bench.load(view.student())
        ins, outs = suspects_of_all(truth, rng=rng)
        members, others = (-example_losses(student, part, task=bench.task) for part in (ins, outs))
        note, certify = compared(bench.task), not self.set_aside(bench)
        delta = bench.scenario.privacy.delta
        return judged(members, others, delta=delta, note=note, rng=rng, certify=certify)
