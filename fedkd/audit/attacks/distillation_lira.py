"""Membership of records a client was never asked about, from a copy of its model.

After the distillation-based LiRA of Shi, Ouyang & Wang 2025, https://arxiv.org/abs/2502.08001 (only
its abstract could be read), in line with Jagielski et al. 2023,
https://arxiv.org/abs/2303.03446, and with the statistic of Carlini et al. 2022,
https://arxiv.org/abs/2112.03570. Differences: the reference models are trained on halves of public
examples, only the OUT side is modelled, and its spread is one number for all examples of a client
while references are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import nn

from fedkd.audit.attacks.base import Attack, Bench, Truth, attacks
from fedkd.audit.attacks.surrogates import (
    degenerate,
    drawn_seed,
    lesson_from,
    listed,
    newest_uploads,
    some_clients,
    speaks_about_classes,
)
from fedkd.audit.fair import MATCHED, judged, suspects_by_client
from fedkd.audit.findings import Result
from fedkd.audit.scoring import Floats, example_logits, some
from fedkd.audit.views import Adversary, Channel, View
from fedkd.protectors.base import softened
from fedkd.tasks import Task
from fedkd.training.steps import Examples, predict_rows
from fedkd.types import Knowledge, ProxySet, Space

FEWEST_FOR_OWN_SPREAD = 8
"""Below so many OUT models the spread of an example's score is that of all examples."""
LEAST_SPREAD = 1e-6


@attacks.register("distillation_lira")
@dataclass(frozen=True)
class DistillationLira(Attack):
    """A copy distilled from a client's upload, against copies of reference models.

    Attributes:
        clients: whose members are looked for, drawn at random.
        references: reference models, each on its own random half of the public examples.
        train_passes: passes of a reference model over its half.
        passes: passes of a copy over the rows it learns from.
    """

    adversary: ClassVar[Adversary] = Adversary.SERVER
    channel: ClassVar[Channel] = Channel.UPLOADS
    clients: Annotated[int, Ge(1)] = 3
    references: Annotated[int, Ge(2)] = 4
    train_passes: Annotated[int, Ge(1)] = 10
    passes: Annotated[int, Ge(1)] = 8

    def applies(self, bench: Bench, truth: Truth) -> str:
        """Refuse methods without knowledge, and sequences."""
        return speaks_about_classes(bench)

    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Attack a few clients and pool their scores."""
        uploads, proxy = newest_uploads(view, n_classes=bench.task.n_classes), view.proxy()
        chosen = some_clients([c for c in uploads if c in truth.members], self.clients, rng=rng)
        lots = (self._half(bench, rng=rng) for _ in range(self.references))
        references = bench.train_many(lots, self.train_passes)
        scores = [(np.zeros(0), np.zeros(0))]
        for client, sides in suspects_by_client(truth, chosen, rng=rng).items():
            if min(map(len, sides)):
                sent = uploads[client]
                answers = (sent, *(answer_like(sent, model, proxy) for model in references))
                lessons = ((lesson_from(a, proxy, bench), drawn_seed(rng)) for a in answers)
                copy, *outs = bench.distil_many(lessons, self.passes)
                scores.append(standardized(copy, outs, sides, task=bench.task))
        note = (
            f"{MATCHED} Attacked: {listed(chosen)} of {len(uploads)}, drawn at random, with "
            f"{self.references} reference models."
        )
        note, delta = note + degenerate(len(uploads)), bench.scenario.privacy.delta
        return judged(*joined(scores), delta=delta, note=note, rng=rng)

    def _half(self, bench: Bench, *, rng: np.random.Generator) -> tuple[Examples, int]:
        half = rng.permutation(len(bench.public))[: max(1, len(bench.public) // 2)]
        return some(bench.public, half), drawn_seed(rng)


def answer_like(upload: Knowledge, module: nn.Module, proxy: ProxySet) -> Knowledge:
    """Return what ``module`` answers about an upload's rows, in its space and softness."""
    logits = predict_rows(module, proxy.inputs, upload.rows, rows_per_input=proxy.rows_per_input)
    told = upload.row_temperatures
    if upload.space is Space.LOGITS:
        return replace(upload, scores=logits)
    if told is not None:
        return replace(upload, scores=torch.softmax(logits / told[:, None], dim=1))
    answer = replace(upload, scores=logits, space=Space.LOGITS)
    return softened(answer, temperature=upload.temperature)


def standardized(
    copy: nn.Module,
    outs: Sequence[nn.Module],
    sides: tuple[Examples, Examples],
    *,
    task: Task,
) -> tuple[Floats, Floats]:
    """Return scores of the members and non-members in ``sides``, in deviations from OUT models.

    The spread is an example's own from 8 OUT models on, else one for all examples together.
    """
    gaps = [np.stack([example_logits(out, side, task=task) for out in outs]) for side in sides]
    if len(outs) >= FEWEST_FOR_OWN_SPREAD:
        spread = [gap.std(axis=0, ddof=1) for gap in gaps]
    else:
        pooled = np.sqrt(np.concatenate([gap.var(axis=0, ddof=1) for gap in gaps], None).mean())
        spread = [np.full(len(side), pooled) for side in sides]
    members, nonmembers = (
        (example_logits(copy, side, task=task) - gap.mean(axis=0)) / np.maximum(sd, LEAST_SPREAD)
        for side, gap, sd in zip(sides, gaps, spread, strict=True)
    )
    return members, nonmembers


def joined(scores: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Return the members' and the non-members' scores of all clients."""
    members, nonmembers = zip(*scores, strict=True)
    return np.concatenate(members), np.concatenate(nonmembers)
