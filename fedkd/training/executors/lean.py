"""One client after the other, without optimiser objects: for convolutions on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedkd.heap import keep_freed_memory
from fedkd.tasks import as_rows
from fedkd.training.executors.base import Executor, borrowing, draws, has_buffers, update
from fedkd.training.jobs import Job, Step
from fedkd.training.packing import Packing
from fedkd.training.steps import as_model_input, lesson_losses


class Lean(Executor):
    """Gradients straight into one row, one update over it; both batches in one forward pass.

    Channels lie last in the row's convolution weights, which torch's CPU convolutions are
    fastest with.
    """

    name: ClassVar[str] = "lean"

    def fits(self, module: nn.Module) -> bool:
        """Refuse buffers, and what draws: one forward pass would draw in another order."""
        return not draws(module) and not has_buffers(module)

    def train(self, rows: Tensor, jobs: Sequence[Job], *, packing: Packing) -> None:
        """Point one module at each row in turn."""
        keep_freed_memory()
        gradients = torch.empty_like(packing.values(rows[:1]))
        parts = [part.of(gradients[0]) for part in packing.parts]
        with packing.spare() as module:
            module.train()
            for row, job in zip(rows, jobs, strict=True):
                packing.attach(module, row)
                parameters = list(module.parameters())
                with borrowing(job):
                    for step in job.schedule():
                        found = torch.autograd.grad(_loss(module, job, step), parameters)
                        for part, gradient in zip(parts, found, strict=True):
                            part.copy_(gradient)
                        update(row[None], gradients, packing=packing, recipe=job.recipe)


def _loss(module: nn.Module, job: Job, step: Step) -> Tensor:
    own, shared = step
    if own is None or shared is None or job.lesson is None:
        return job.loss(module, step)
    lesson, private = job.lesson, job.private
    inputs = torch.cat([private.inputs[own], lesson.inputs[shared]])
    logits = module(as_model_input(inputs))
    mine = job.task.loss(as_rows(logits[: len(own)]), private.labels[own].flatten()).mean()
    losses = lesson_losses(as_rows(logits[len(own) :]), lesson, shared)
    if lesson.known is None:
        return job.recipe.ce_weight * mine + losses.mean()
    known = lesson.known[shared].flatten()
    return job.recipe.ce_weight * mine + (losses * known).sum() / known.sum()
