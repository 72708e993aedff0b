"""One client after the other, without optimiser objects: for convolutions on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedkd.flat import Part
from fedkd.heap import keep_freed_memory
from fedkd.tasks import as_rows
from fedkd.training.executors.base import Executor, borrowing, draws, has_buffers, update
from fedkd.training.jobs import Job, Step
from fedkd.training.packing import Packing
from fedkd.training.steps import as_model_input, lesson_losses, scaled

Placing = Callable[[Part, Tensor], Tensor]
"""How the numbers of a part lie in a vector ``[size]``, of which it returns a view."""


class Lean(Executor):
    """Gradients straight into one row, one update over it; both batches in one forward pass.

    A client's row is copied to where the processor is fastest with it and back.
    """

    name: ClassVar[str] = "lean"

    def fits(self, module: nn.Module) -> bool:
        """Refuse buffers, and what draws: one forward pass would draw in another order."""
        return not draws(module) and not has_buffers(module)

    def train(self, rows: Tensor, jobs: Sequence[Job], *, packing: Packing) -> None:
        """Train a copy of each row in turn, of which one module's parameters are views."""
        keep_freed_memory()
        place = fastest_placing(packing.template, rows.device)
        work = torch.empty_like(rows[:1])
        prepare = scaled if place is _in_torchs_order else as_model_input
        gradients = torch.empty_like(packing.values(work))
        parts = [place(part, gradients[0]) for part in packing.parts]
        with packing.spare() as module:
            module.train()
            parameters = list(module.parameters())
            for part, parameter in zip(packing.parts, parameters, strict=True):
                parameter.data = place(part, work[0])
            for row, job in zip(rows, jobs, strict=True):
                _copy(row, work[0], packing=packing, read=Part.of, write=place)
                with borrowing(job):
                    for step in job.schedule():
                        loss = _loss(module, job, step, prepare=prepare)
                        found = torch.autograd.grad(loss, parameters)
                        for part, gradient in zip(parts, found, strict=True):
                            part.copy_(gradient)
                        update(work, gradients, packing=packing, recipe=job.recipe)
                _copy(work[0], row, packing=packing, read=place, write=Part.of)


def fastest_placing(module: nn.Module, device: torch.device) -> Placing:
    """Return where weights should lie to be trained fast.

    Channels last, as they lie in rows, is right for pooling and for most processors. With AVX-512
    oneDNN is faster where it may choose (by a tenth for ``cnn_small`` and ``resnet8``), which it
    does for weights in torch's own order.
    """
    pools = any(isinstance(layer, _POOLS) for layer in module.modules())
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return _in_torchs_order if wide and not pools and device.type == "cpu" else Part.of


def _in_torchs_order(part: Part, vector: Tensor) -> Tensor:
    return vector[part.start : part.start + math.prod(part.shape)].view(part.shape)


def _copy(
    source: Tensor, target: Tensor, *, packing: Packing, read: Placing, write: Placing
) -> None:
    """Copy a row ``[width]`` in which parts lie in one order to one of another order."""
    target[-1] = source[-1]
    pairs = zip(packing.moments(source), packing.moments(target), strict=True)
    for old, new in ((packing.values(source), packing.values(target)), *pairs):
        for part in packing.parts:
            write(part, new).copy_(read(part, old))


_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


def _loss(
    module: nn.Module, job: Job, step: Step, *, prepare: Callable[[Tensor], Tensor]
) -> Tensor:
    own, shared = step
    if own is None or shared is None or job.lesson is None:
        return job.loss(module, step)
    lesson, private = job.lesson, job.private
    inputs = torch.cat([private.inputs[own], lesson.inputs[shared]])
    logits = module(prepare(inputs))
    mine = job.task.loss(as_rows(logits[: len(own)]), private.labels[own].flatten()).mean()
    losses = lesson_losses(as_rows(logits[len(own) :]), lesson, shared)
    if lesson.known is None:
        return job.recipe.ce_weight * mine + losses.mean()
    known = lesson.known[shared].flatten()
    return job.recipe.ce_weight * mine + (losses * known).sum() / known.sum()
