"""Many clients of one architecture at once: their parameters are one batch of matrices.

Every step takes each client's own batch, padded to a common size; rows that are padding weigh
nothing, and a client whose steps are over takes no further part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedkd.heap import keep_freed_memory
from fedkd.tasks import as_rows
from fedkd.training.executors.base import Executor, descend, draws, gradients_for, keeps_more
from fedkd.training.executors.batches import Batches, Side
from fedkd.training.executors.networks import Mapped, Network, TwoLayers
from fedkd.training.jobs import Job
from fedkd.training.packing import Packing, aligned_rows
from fedkd.training.steps import Lesson, lesson_slopes


class Stacked(Executor):
    """A block of clients in one go: for small models, and for any model on a GPU."""

    name: ClassVar[str] = "stacked"

    def fits(self, module: nn.Module) -> bool:
        """Refuse what carries more, and what draws or has no batching rule (recurrent layers)."""
        recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
        return not draws(module) and not keeps_more(module) and not recurrent

    def train(self, rows: Tensor, jobs: Sequence[Job], *, packing: Packing) -> None:
        """Longest jobs first, so that those still at work are the first rows.

        Raises:
            ValueError: the jobs do not share one lesson; the first one's would be taught to all.
        """
        if any(job.lesson is not jobs[0].lesson for job in jobs):
            raise ValueError("the stacked executor teaches one lesson to all; use serial or lean")
        keep_freed_memory()
        plans = [job.readings() for job in jobs]
        ends = [max(own.end, shared.end) for own, shared in plans]
        order = sorted(range(len(jobs)), key=lambda n: -ends[n])
        sorted_rows = order == list(range(len(jobs)))
        block = rows if sorted_rows else _copied(rows, order, packing)
        template = packing.template
        network = TwoLayers(packing) if TwoLayers.fits(template) else Mapped(packing, template)
        batches = Batches.of([jobs[n] for n in order], [plans[n] for n in order], like=rows)
        _carry_out(block, batches, network, packing=packing, job=jobs[0])
        if not sorted_rows:
            rows[order] = block


def _copied(rows: Tensor, order: Sequence[int], packing: Packing) -> Tensor:
    return aligned_rows(len(order), packing.width, like=rows).copy_(rows[order])


def _carry_out(
    rows: Tensor, batches: Batches, network: Network[Tensor], *, packing: Packing, job: Job
) -> None:
    live, values = rows, packing.values(rows)
    gradients = gradients_for(rows, packing=packing)
    for step, n_active in enumerate(batches.active):
        if n_active < len(live):
            live, values = rows[:n_active], packing.values(rows[:n_active])
        parts = _Parts(batches, step, n_active)
        slopes = parts.slopes(network.logits(values, parts.inputs), job)
        descend(network, slopes, live, gradients, packing=packing)


class _Parts:
    """One step of a block: private examples first, then the lesson's."""

    def __init__(self, batches: Batches, step: int, n_active: int) -> None:
        self._batches = batches
        self._own = None if batches.own is None else batches.own.at(step, n_active)
        self._shared = None if batches.shared is None else batches.shared.at(step, n_active)
        read: list[Tensor] = []
        if self._own is not None:
            read.append(_rows(batches.inputs, self._own.read))
        if self._shared is not None and batches.lesson is not None:
            read.append(_rows(batches.lesson.inputs, self._shared.read))
        self.inputs = read[0] if len(read) == 1 else torch.cat(read, dim=1)

    def slopes(self, logits: Tensor, job: Job) -> Tensor:
        """Return the gradient of the summed losses with respect to the logits."""
        n_own, found = 0, list[Tensor]()
        if self._own is not None:
            n_own = self._own.index.shape[1]
            mine, weights = logits[:, :n_own], self._own.weights
            each = _spread(weights, mine)
            labels = _rows(self._batches.labels, self._own.index).flatten()
            found.append(job.task.slopes(as_rows(mine), labels, each).view(mine.shape))
        if self._shared is not None and self._batches.lesson is not None:
            theirs, at = logits[:, n_own:], self._shared.index.flatten()
            each = _lesson_weights(theirs, self._shared, self._batches.lesson)
            rows = lesson_slopes(as_rows(theirs), self._batches.lesson, at, each)
            found.append(rows.view(theirs.shape))
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _rows(source: Tensor, index: Tensor) -> Tensor:
    """Return ``source[index]``, which torch copies faster row by row than by an index of two axes.

    ``index`` is ``[clients, batch]``.
    """
    return source.index_select(0, index.flatten()).view(*index.shape, *source.shape[1:])


def _lesson_weights(logits: Tensor, shared: Side, lesson: Lesson) -> Tensor:
    """Return the weight of each row of the lesson, of which some the teacher is silent about."""
    if lesson.known is None:
        return _spread(shared.weights, logits)
    known = lesson.known[shared.index.flatten()].view(*shared.there.shape, -1)
    counted = (known & shared.there[..., None]).flatten(1).to(logits.dtype)
    return (counted / counted.sum(dim=1, keepdim=True).clamp(min=1)).flatten()


def _spread(weights: Tensor, logits: Tensor) -> Tensor:
    """Return the weight of each row, from those of inputs, ``[clients, n]``."""
    n_positions = logits.shape[2:-1].numel()
    if n_positions == 1:
        return weights.reshape(-1)
    return (weights / n_positions).flatten().repeat_interleave(n_positions)
