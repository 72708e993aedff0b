"""One client after the other, without optimiser objects: for convolutions on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedkd.heap import keep_freed_memory
from fedkd.tasks import as_rows
from fedkd.training.executors.base import (
    Executor,
    borrowing,
    descend,
    draws,
    gradients_for,
    keeps_more,
)
from fedkd.training.executors.chain import Chain
from fedkd.training.executors.networks import Whole
from fedkd.training.jobs import Job, Step
from fedkd.training.packing import Packing
from fedkd.training.quickening import quickened
from fedkd.training.steps import as_model_input, lesson_slopes


class Lean(Executor):
    """A chain of layers, and gradients where the optimiser uses them; both batches at once.

    A client's row is copied to where it lies well for the processor, and back.
    """

    name: ClassVar[str] = "lean"

    def __init__(self) -> None:
        self._desks = WeakKeyDictionary[Packing, _Desk]()

    def fits(self, module: nn.Module) -> bool:
        """Refuse what carries more, and what draws: one forward pass would change the order."""
        return not draws(module) and not keeps_more(module)

    def train(self, rows: Tensor, jobs: Sequence[Job], *, packing: Packing) -> None:
        """Train a copy of each row in turn, always in the same place."""
        desk = self._desks.pop(packing, None)
        if desk is None or not desk.suits(rows):
            desk = _Desk(packing, like=rows)
        for row, job in zip(rows, jobs, strict=True):
            with borrowing(job):
                desk.train(row, job, packing)
        self._desks[packing] = desk


class _Desk:
    """Where clients of one architecture are trained, one after the other.

    It is set up once: to find its layers takes as long as a small network's step, and memory that
    was used just now is faster. It holds no reference to the packing, with which it goes.
    """

    def __init__(self, packing: Packing, *, like: Tensor) -> None:
        keep_freed_memory()
        self._work = like.new_empty(1, packing.width)
        self._values = packing.values(self._work)
        self._gradients = gradients_for(self._work, packing=packing)
        module = quickened(copy.deepcopy(packing.template), trained=True)
        kind = Chain if Chain.fits(module) else Whole
        self._network = kind(packing, module)

    def suits(self, rows: Tensor) -> bool:
        """Return whether rows are numbers of its kind on its device."""
        return (rows.dtype, rows.device) == (self._work.dtype, self._work.device)

    def train(self, row: Tensor, job: Job, packing: Packing) -> None:
        """Take all steps of a job."""
        self._work[0].copy_(row)
        for step in job.schedule():
            logits = self._network.logits(self._values, _inputs(job, step)[None])
            slopes = _slopes(logits[0], job, step)
            descend(self._network, slopes[None], self._work, self._gradients, packing=packing)
        row.copy_(self._work[0])


def _inputs(job: Job, step: Step) -> Tensor:
    """Return what a step reads: private examples first, then the lesson's."""
    own, shared = step
    read: list[Tensor] = []
    if own is not None:
        read.append(job.private.inputs.index_select(0, own.to(job.private.inputs.device)))
    if shared is not None and job.lesson is not None:
        read.append(job.lesson.inputs.index_select(0, shared.to(job.lesson.inputs.device)))
    return as_model_input(read[0] if len(read) == 1 else torch.cat(read))


def _slopes(logits: Tensor, job: Job, step: Step) -> Tensor:
    """Return the gradient of the step's loss with respect to the logits."""
    (own, shared), n_own = step, 0
    found: list[Tensor] = []
    if own is not None:
        n_own = len(own)
        mine, weight = logits[:n_own], 1.0 if shared is None else job.recipe.ce_weight
        labels = job.private.labels.index_select(0, own.to(logits.device)).flatten()
        each = logits.new_full((len(labels),), weight / len(labels))
        found.append(job.task.slopes(as_rows(mine), labels, each).view(mine.shape))
    if shared is not None and job.lesson is not None:
        theirs, shared = logits[n_own:], shared.to(logits.device)
        rows = as_rows(theirs)
        if job.lesson.known is None:
            each = rows.new_full((len(rows),), 1 / len(rows))
        else:
            known = job.lesson.known[shared].flatten()
            each = known.to(rows.dtype) / known.sum()
        found.append(lesson_slopes(rows, job.lesson, shared, each).view(theirs.shape))
    return found[0] if len(found) == 1 else torch.cat(found)
