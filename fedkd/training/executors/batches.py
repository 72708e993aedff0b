"""What a block of clients reads in each step, laid side by side for the stacked executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

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
        facts = tuple((reading.n, reading.first, reading.steps) for reading in readings)
        if not any(steps for _, _, steps in facts):
            return None
        grid = _grid(facts, readings[0].size, like.device, like.dtype)
        positions = torch.cat([reading.order for reading in readings])
        if apart:
            positions += grid.before
        index = positions[grid.at].to(like.device)
        return Side(index=index, read=index, there=grid.there, weights=grid.weights)

    def at(self, step: int, n_active: int) -> Side | None:
        """Return what the first ``n_active`` clients read in a step, ``[n_active, batch]``."""
        if step >= len(self.index):
            return None
        parts = (self.index[step], self.read[step], self.there[step], self.weights[step])
        if n_active < len(parts[0]):
            parts = tuple(part[:n_active] for part in parts)
        index, read, there, weights = parts
        return Side(index=index, read=read, there=there, weights=weights)


class _Grid(NamedTuple):
    """Where the batches of clients lie in their orders, laid one after the other.

    Attributes:
        at: int64 ``[steps, clients, batch]``, in all orders together; any for padding.
        before: for each position in all orders, how many examples the clients before its own have.
        there: bool, what is no padding.
        weights: a client's mean over what is there.
    """

    at: Tensor
    before: Tensor
    there: Tensor
    weights: Tensor


@lru_cache(maxsize=32)
def _grid(
    facts: tuple[tuple[int, int, int], ...], size: int, device: torch.device, dtype: torch.dtype
) -> _Grid:
    """Lay batches of ``size`` out, the same in every round: not to be changed.

    ``facts`` are each client's number of examples, first step and number of steps.
    """
    n, first, steps = np.array(facts).T
    each = np.maximum(1, -(-n // size))
    length = -(-steps // each) * n
    step = np.arange((first + steps).max())[:, None] - first
    epoch, batch = np.divmod(step, each)
    count = np.clip(n - batch * size, 0, size) * ((step >= 0) & (step < steps))
    start = np.where(count > 0, length.cumsum() - length + epoch * n + batch * size, 0)
    column = np.arange(count.max())
    there = column < count[..., None]
    weights = torch.from_numpy(there / np.maximum(1, count)[..., None])
    return _Grid(
        at=torch.from_numpy(np.where(there, start[..., None] + column, 0)),
        before=torch.from_numpy(np.repeat(n.cumsum() - n, length)),
        there=torch.from_numpy(there).to(device),
        weights=weights.to(device, dtype),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Batches:
    """A block's reading plan: how many clients are at work in each step, and what they read.

    Attributes:
        active: clients by step.
        own: of the private examples.
        inputs: what private batches are rows of.
        labels: of all clients' private examples, one client's after the other's.
        lesson: what all of them are taught.
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
            weights, n_both = own.weights.clone(), min(len(own.there), len(shared.there))
            beside = shared.there[:n_both].any(dim=2, keepdim=True)
            weights[:n_both].mul_(torch.where(beside, jobs[0].recipe.ce_weight, 1.0))
            own = replace(own, weights=weights)
        ends = [max(own.end, shared.end) for own, shared in plans]
        inputs, rows = jobs[0].private.pool, list[Tensor]()
        for job in jobs:
            if job.private.pool is inputs and job.private.rows is not None:
                rows.append(job.private.rows)
        if len(rows) < len(jobs):
            inputs = torch.cat([job.private.inputs for job in jobs])
        elif own is not None:
            own = replace(own, read=torch.cat(rows)[own.index])
        return Batches(
            active=[sum(end > step for end in ends) for step in range(ends[0])],
            own=own,
            inputs=inputs,
            labels=torch.cat([job.private.labels for job in jobs]),
            lesson=jobs[0].lesson,
            shared=shared,
        )
