"""What a block of clients reads in each step, laid side by side for the stacked executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedkd.training.jobs import Job, Reading
from fedkd.training.steps import Lesson


@dataclass(frozen=True, eq=False, kw_only=True)
class Side:
    """What is read of one kind of example, each ``[steps, clients, batch]``.

    Attributes:
        index: positions among the examples; any for padding.
        read: positions of their inputs, where those lie elsewhere.
        there: bool, what is no padding.
        weights: of the losses: a client's mean over what is there.
    """

    index: Tensor
    read: Tensor
    there: Tensor
    weights: Tensor

    @staticmethod
    def of(readings: Sequence[Reading], *, apart: bool, like: Tensor) -> Side | None:
        """Lay the batches of all clients side by side; None when nobody reads any.

        Args:
            readings: of each client, that of the most steps first.
            apart: whether each client has examples of its own, one client's after the other's.
            like: has the device of the whole, and the type of the weights.
        """
        facts = np.array([(r.n, r.first, r.steps, len(r.order)) for r in readings])
        n, first, steps, length = (column[None] for column in facts.T)
        if not steps.any():
            return None
        size = readings[0].size
        step = np.arange((first + steps).max())[:, None] - first
        epoch, batch = np.divmod(step, np.maximum(1, -(-n // size)))
        count = np.clip(n - batch * size, 0, size) * ((step >= 0) & (step < steps))
        start = np.where(count > 0, length.cumsum() - length + epoch * n + batch * size, 0)
        column = np.arange(count.max())
        there = column < count[..., None]
        positions = torch.cat([reading.order for reading in readings])
        if apart:
            positions += torch.from_numpy(np.repeat(n.cumsum() - n[0], length[0]))
        at = torch.from_numpy(np.where(there, start[..., None] + column, 0))
        parts = (positions[at], there, there / np.maximum(1, count)[..., None])
        index, there, weights = (torch.as_tensor(part).to(like.device) for part in parts)
        return Side(index=index, read=index, there=there, weights=weights.to(like.dtype))

    def at(self, step: int, n_active: int) -> Side | None:
        """Return what the first ``n_active`` clients read in a step, ``[n_active, batch]``."""
        if step >= len(self.index):
            return None
        parts = (self.index, self.read, self.there, self.weights)
        index, read, there, weights = (part[step, :n_active] for part in parts)
        return Side(index=index, read=read, there=there, weights=weights)


@dataclass(frozen=True, eq=False, kw_only=True)
class Batches:
    """A block's reading plan: how many clients are at work in each step, and what they read.

    Attributes:
        active: clients by step.
        own: of the private examples.
        inputs: what private batches are rows of.
        labels: of all clients' private examples, one client's after the other's.
        shared: of the lesson.
    """

    active: list[int]
    own: Side | None
    inputs: Tensor
    labels: Tensor
    lesson: Lesson | None
    shared: Side | None

    @staticmethod
    def of(
        jobs: Sequence[Job], plans: Sequence[tuple[Reading, Reading]], *, like: Tensor
    ) -> Batches:
        """Read from the pool that all private examples are in, or lay them one after the other.

        Private examples weigh ``ce_weight`` beside a lesson, and all where there is none.
        """
        own = Side.of([plan[0] for plan in plans], apart=True, like=like)
        shared = Side.of([plan[1] for plan in plans], apart=False, like=like)
        if own is not None and shared is not None:
            n_both = min(len(own.there), len(shared.there))
            beside = shared.there[:n_both].any(dim=2, keepdim=True)
            own.weights[:n_both].mul_(torch.where(beside, jobs[0].recipe.ce_weight, 1.0))
        ends = np.array([max(reading.end for reading in plan) for plan in plans])
        inputs, rows = jobs[0].private.pool, [job.private.rows for job in jobs]
        if inputs is None or any(job.private.pool is not inputs for job in jobs):
            inputs = torch.cat([job.private.inputs for job in jobs])
        elif own is not None:
            own = replace(own, read=torch.cat([r for r in rows if r is not None])[own.index])
        return Batches(
            active=[int((ends > n).sum()) for n in range(ends[0])],
            own=own,
            inputs=inputs,
            labels=torch.cat([job.private.labels for job in jobs]),
            lesson=jobs[0].lesson,
            shared=shared,
        )
