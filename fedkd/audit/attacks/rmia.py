"""RMIA: an example is a member if the student favours it more than most public examples.

Zarifzadeh et al.: Low-Cost High-Power Membership Inference Attacks, 2024,
https://arxiv.org/abs/2312.03262.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Interval
from torch import nn

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.fair import compared, judged, suspects_of_all, unlike
from fedkd.audit.findings import Result
from fedkd.audit.scoring import Floats, example_losses, some
from fedkd.audit.views import Adversary, Channel, View
from fedkd.training.steps import Examples


@attacks.register("rmia")
@dataclass(frozen=True)
class Rmia(Attack):
    """Offline, with one or two reference models.

    ratio(x) = p(x | student) / ((1 + a) / 2 * mean p(x | reference) + (1 - a) / 2); the score is
    the share of public z with ratio(x) > gamma * ratio(z). p is of the true label; of a
    sequence, the geometric mean over its positions.

    Attributes:
        references: reference models; two are trained on complementary halves of the public
            examples, one on the first half. A public example is compared by models that did
            not see it only.
        passes: of each over its half.
        a: how far p(x) of models that saw x is taken to be from 1: 1 ignores that there are any.
        gamma: how much more favoured.
    """

    adversary: ClassVar[Adversary] = Adversary.STUDENT_HOLDER
    channel: ClassVar[Channel] = Channel.STUDENT
    references: Annotated[int, Interval(ge=1, le=2)] = 2
    passes: Annotated[int, Gt(0)] = 20
    a: Annotated[float, Interval(ge=0, le=1)] = 0.3
    gamma: Annotated[float, Gt(0)] = 1.0

    def applies(self, bench: Bench, truth: Truth) -> str:
        """There must be public examples to train reference models on."""
        return "" if len(bench.public) >= 4 else "too few public examples for reference models"

    def set_aside(self, bench: Bench) -> str:
        """Texts cannot be matched."""
        return unlike(bench.task)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Train the reference models; compare each suspect with the public examples."""
        student = bench.load(view.student())
        sides = suspects_of_all(truth, rng=rng)
        order = rng.permutation(len(bench.public))
        halves = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
        lots = [(some(bench.public, half), number) for number, half in enumerate(halves)]
        models = bench.train_many(lots[: self.references], self.passes)
        task = bench.task

        def ratios(examples: Examples, judges: Sequence[nn.Module]) -> Floats:
            unseen = np.mean(
                [np.exp(-example_losses(model, examples, task=task)) for model in judges], axis=0
            )
            own = np.exp(-example_losses(student, examples, task=task))
            return own / ((1 + self.a) / 2 * unseen + (1 - self.a) / 2)

        population = np.concatenate(
            [
                ratios(some(bench.public, half), [model])
                for model, half in zip(models, reversed(halves), strict=False)
            ]
        )
        ranked = np.sort(self.gamma * population)
        members, others = (
            np.searchsorted(ranked, ratios(side, models)) / len(ranked) for side in sides
        )
        note = f"{self.references} reference models, {len(ranked)} public examples."
        note = f"{compared(bench.task)} {note}"
        certify, delta = not self.set_aside(bench), bench.scenario.privacy.delta
        return judged(members, others, delta=delta, note=note, rng=rng, certify=certify)
