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
from fedkd.training.quickening import gradients_channels_last
from fedkd.training.steps import as_model_input, lesson_losses


class Lean(Executor):
    """Gradients straight into one row, one update over it; both batches in one forward pass.

    A client's row is copied to where it lies well for the processor, and back.
    """

    name: ClassVar[str] = "lean"

    def fits(self, module: nn.Module) -> bool:
        """Refuse buffers, and what draws: one forward pass would draw in another order."""
        return not draws(module) and not has_buffers(module)

    def train(self, rows: Tensor, jobs: Sequence[Job], *, packing: Packing) -> None:
        """Train a copy of each row in turn, of which one module's parameters are views."""
        keep_freed_memory()
        work = torch.empty_like(rows[:1])
        gradients = torch.empty_like(packing.values(work))
        parts = [part.of(gradients[0]) for part in packing.parts]
        with packing.spare() as module, gradients_channels_last(module):
            module.train()
            packing.attach(module, work[0])
            parameters = list(module.parameters())
            for row, job in zip(rows, jobs, strict=True):
                work[0].copy_(row)
                with borrowing(job):
                    for step in job.schedule():
                        found = torch.autograd.grad(_loss(module, job, step), parameters)
                        for part, gradient in zip(parts, found, strict=True):
                            part.copy_(gradient)
                        update(work, gradients, packing=packing, recipe=job.recipe)
                row.copy_(work[0])


def _loss(module: nn.Module, job: Job, step: Step) -> Tensor:
    own, shared = step
    if own is None or shared is None or job.lesson is None:
        return job.loss(module, step)
    lesson, private = job.lesson, job.private
    device = private.inputs.device
    own, shared = own.to(device), shared.to(device)
    read = (private.inputs.index_select(0, own), lesson.inputs.index_select(0, shared))
    logits = module(as_model_input(torch.cat(read)))
    mine = job.task.loss(as_rows(logits[: len(own)]), private.labels[own].flatten()).mean()
    losses = lesson_losses(as_rows(logits[len(own) :]), lesson, shared)
    if lesson.known is None:
        return job.recipe.ce_weight * mine + losses.mean()
    known = lesson.known[shared].flatten()
    return job.recipe.ce_weight * mine + (losses * known).sum() / known.sum()
