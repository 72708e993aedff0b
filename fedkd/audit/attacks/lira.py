"""LiRA, offline: how unlike models that never saw an example the student treats it.

Carlini et al.: Membership Inference Attacks From First Principles, 2022,
https://arxiv.org/abs/2112.03570.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.fair import compared, judged, suspects_of_all, unlike
from fedkd.audit.findings import Result
from fedkd.audit.scoring import Floats, example_logits, some
from fedkd.audit.views import Adversary, Channel, View


@attacks.register("lira")
@dataclass(frozen=True)
class Lira(Attack):
    """The score is (phi - mean of the reference models' phi) / one common deviation.

    phi = ln p / (1 - p) of the true label. The variance is global, as is advised for few models.

    Attributes:
        references: models trained, each on a random half of the public examples.
        passes: of each over its half.
    """

    adversary: ClassVar[Adversary] = Adversary.STUDENT_HOLDER
    channel: ClassVar[Channel] = Channel.STUDENT
    references: Annotated[int, Ge(2)] = 8
    passes: Annotated[int, Ge(1)] = 20

    def applies(self, bench: Bench, truth: Truth) -> str:
        """There must be public examples to train reference models on."""
        return "" if len(bench.public) >= 4 else "too few public examples for reference models"

    def set_aside(self, bench: Bench) -> str:
        """Texts cannot be matched."""
        return unlike(bench.task)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Train the reference models, compare the student with them."""
        student = bench.load(view.student())
        sides = suspects_of_all(truth, rng=rng)
        seen = [example_logits(student, side, task=bench.task) for side in sides]
        unseen: tuple[list[Floats], list[Floats]] = ([], [])
        n = len(bench.public)
        halves = [np.sort(rng.permutation(n)[: n // 2]) for _ in range(self.references)]
        lots = ((some(bench.public, half), number) for number, half in enumerate(halves))
        for module in bench.train_many(lots, self.passes):
            for found, side in zip(unseen, sides, strict=True):
                found.append(example_logits(module, side, task=bench.task))
        centers = [np.median(found, axis=0) for found in unseen]
        spread = np.concatenate(
            [(np.array(f) - c).ravel() for f, c in zip(unseen, centers, strict=True)]
        )
        scale = max(float(spread.std()), 1e-9) if len(spread) else 1.0
        members, others = ((s - c) / scale for s, c in zip(seen, centers, strict=True))
        note = f"{self.references} reference models saw {n // 2} public examples each."
        note = f"{compared(bench.task)} {note}"
        certify, delta = not self.set_aside(bench), bench.scenario.privacy.delta
        return judged(members, others, delta=delta, note=note, rng=rng, certify=certify)
