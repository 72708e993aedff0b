"""One client's training of one round: what it reads in which step, and the loss of a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedkd.tasks import Task
from fedkd.training.recipe import Order, Training
from fedkd.training.steps import Examples, Lesson, Student, lesson_loss, private_loss, take_step

Step = tuple[Tensor | None, Tensor | None]
"""Positions of a private batch and of a batch of the lesson; at most one of them is absent."""


class Reading(NamedTuple):
    """Which examples of one kind a job reads in which step: whole epochs, one after the other.

    Attributes:
        order: int64, positions of the first epoch, then of the next.
        n: examples of an epoch.
        size: of a batch; the last one of an epoch may be smaller.
        first: the first step that reads any.
        steps: how many do.
    """

    order: Tensor
    n: int
    size: int
    first: int
    steps: int

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.first + self.steps

    def at(self, step: int) -> Tensor | None:
        """Return the batch of a step; None when it reads none."""
        if not self.first <= step < self.end:
            return None
        epoch, batch = divmod(step - self.first, -(-self.n // self.size))
        start = epoch * self.n
        return self.order[start + batch * self.size : start + min(self.n, (batch + 1) * self.size)]


@dataclass(eq=False, kw_only=True, slots=True)
class Job:
    """One client's training of one round, whoever carries it out; not to be changed.

    Attributes:
        private: may be empty; then only the lesson is learnt.
        lesson: None or an empty lesson means private training alone.
        recipe: order, epochs, batch size, weights.
        task: gives the loss on private labels.
        order: orders the batches.
        module: what the model itself draws (dropout); None leaves torch's global stream alone.
    """

    private: Examples
    lesson: Lesson | None
    recipe: Training
    task: Task
    order: torch.Generator
    module: torch.Generator | None = None

    def readings(self) -> tuple[Reading, Reading]:
        """Return what is read of the private examples and of the lesson; draws from ``order``."""
        recipe, size = self.recipe, self.recipe.batch_size
        n_private = len(self.private)
        if self.lesson is None or not len(self.lesson):
            passes = recipe.local_epochs if n_private else 0
            drawn = [torch.randperm(n_private, generator=self.order) for _ in range(passes)]
            steps = passes * -(-n_private // size)
            return Reading(end_to_end(drawn), n_private, size, 0, steps), _NO_READING
        n_lesson = len(self.lesson)
        own, shared = -(-n_private // size), -(-n_lesson // size)
        first, n_own, n_shared = shared, recipe.local_epochs * own, shared
        if n_private and recipe.order is Order.INTERLEAVED:
            first, n_own = 0, max(n_own, shared)
            n_shared = n_own
        epochs: tuple[list[Tensor], list[Tensor]] = ([], [])
        for step in range(max(first + n_own, n_shared)):  # in the order in which they are needed
            if first <= step and n_own and not (step - first) % own:
                epochs[0].append(torch.randperm(n_private, generator=self.order))
            if step < n_shared and not step % shared:
                epochs[1].append(torch.randperm(n_lesson, generator=self.order))
        private, lesson = (end_to_end(some) for some in epochs)
        return (
            Reading(private, n_private, size, first, n_own),
            Reading(lesson, n_lesson, size, 0, n_shared),
        )

    def schedule(self) -> Iterator[Step]:
        """Yield what each step reads, in the order that ``order`` gives."""
        own, shared = self.readings()
        for step in range(max(own.end, shared.end)):
            yield own.at(step), shared.at(step)

    def loss(self, module: nn.Module, step: Step) -> Tensor:
        """Return the loss of one step, ``[]``."""
        own, shared = step
        if self.lesson is None or shared is None:
            if own is None:
                raise ValueError("a step reads neither private examples nor a lesson")
            return private_loss(module, self.private, own, task=self.task)
        loss = lesson_loss(module, self.lesson, shared)
        if own is None:
            return loss
        return (
            self.recipe.ce_weight * private_loss(module, self.private, own, task=self.task) + loss
        )


def train_round(
    student: Student,
    private: Examples,
    lesson: Lesson | None,
    *,
    recipe: Training,
    task: Task,
    rng: torch.Generator,
) -> None:
    """Train one client for one round, on its examples and, if there is one, on the lesson.

    Args:
        student: changed in place.
        private: may be empty; then only the lesson is learnt.
        lesson: None or an empty lesson means private training alone.
        recipe: order, epochs, batch size, weights.
        task: gives the loss on private labels.
        rng: orders the batches.
    """
    job = Job(private=private, lesson=lesson, recipe=recipe, task=task, order=rng)
    student.module.train()
    for step in job.schedule():
        take_step(student, job.loss(student.module, step))


def end_to_end(epochs: list[Tensor]) -> Tensor:
    """Return the positions of some epochs, one after the other."""
    if len(epochs) == 1:
        return epochs[0]
    return torch.cat(epochs) if epochs else _NOTHING


_NOTHING = torch.zeros(0, dtype=torch.int64)
"""No positions; not to be changed."""
_NO_READING = Reading(_NOTHING, 0, 1, 0, 0)
