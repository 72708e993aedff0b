"""A few clients in step, each by itself, without optimiser objects: for convolutions on a CPU."""

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
from fedkd.training.executors.networks import Network, Whole
from fedkd.training.jobs import Job, Step
from fedkd.training.packing import Packing
from fedkd.training.quickening import quickened
from fedkd.training.steps import as_model_input, lesson_slopes


class Lean(Executor):
    """A chain of layers, and gradients where the optimiser uses them; both batches at once.

    A client's row is copied to where it lies well for the processor, and back.
    """

    name: ClassVar[str] = "lean"
    in_step: ClassVar[int] = 4

    def __init__(self) -> None:
        self._desks = WeakKeyDictionary[Packing, _Desk]()

    def fits(self, module: nn.Module) -> bool:
        """Refuse what carries more, and what draws: one forward pass would change the order."""
        return not draws(module) and not keeps_more(module)

    def train(self, rows: Tensor, jobs: Sequence[Job], *, packing: Packing) -> None:
        """Train copies of a few rows at a time, always in the same place."""
        desk = self._desks.pop(packing, None)
        if desk is None or not desk.suits(rows):
            desk = _Desk(packing, like=rows)
        read = max([1, *(_read_in_a_step(job) for job in jobs)])
        most = max(1, min(desk.most, _CACHED // read))
        some = -(-len(jobs) // -(-len(jobs) // most)) if jobs else 1  # about as many each time
        for n in range(0, len(jobs), some):
            with borrowing(jobs[n]):
                desk.train(rows[n : n + some], jobs[n : n + some], packing)
        self._desks[packing] = desk


class _Desk:
    """Where clients of one architecture are trained, a few in step.

    It is set up once: to find its layers takes as long as a small network's step, and memory that
    was used just now is faster. It holds no reference to the packing, with which it goes.

    Attributes:
        most: clients at once.
    """

    def __init__(self, packing: Packing, *, like: Tensor) -> None:
        keep_freed_memory()
        module = quickened(copy.deepcopy(packing.template), trained=True)
        by_hand = Chain.fits(module)
        self.most = Lean.in_step if by_hand else 1
        self._network: Network[list[Tensor]] = (
            Chain(packing, module, most=self.most) if by_hand else Whole(packing, module)
        )
        self._work = packing.room(self.most, like=like)
        self._gradients = gradients_for(self._work, packing=packing)

    def suits(self, rows: Tensor) -> bool:
        """Return whether rows are numbers of its kind on its device."""
        return (rows.dtype, rows.device) == (self._work.dtype, self._work.device)

    def train(self, rows: Tensor, jobs: Sequence[Job], packing: Packing) -> None:
        """Take all steps of up to ``most`` jobs, the longest one first."""
        plans = [list(job.schedule()) for job in jobs]
        order = sorted(range(len(jobs)), key=lambda n: -len(plans[n]))
        for place, n in enumerate(order):
            self._work[place].copy_(rows[n])
        for step in range(len(plans[order[0]])):
            active = [(jobs[n], plans[n][step]) for n in order if step < len(plans[n])]
            live = self._work[: len(active)]
            logits = self._network.logits(
                packing.values(live), [_inputs(job, read) for job, read in active]
            )
            slopes = [
                _slopes(one, job, read) for one, (job, read) in zip(logits, active, strict=True)
            ]
            descend(self._network, slopes, live, self._gradients, packing=packing)
        for place, n in enumerate(order):
            rows[n].copy_(self._work[place])


def _read_in_a_step(job: Job) -> int:
    return job.recipe.batch_size * (2 if job.lesson is not None and len(job.lesson) else 1)


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


_CACHED = 256
"""Inputs of clients in step: what layers make of more would not stay in the cache."""
