"""Training steps as plain functions, shared by clients and by a student on the server.

No function here reads a number back from the device inside a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.distillers.base import Distiller
from fedkd.tasks import Task, as_rows
from fedkd.training.recipe import OptimizerName, Order, Training
from fedkd.types import Consensus

PREDICTION_BATCH = 512
"""Rows of one forward pass without gradients."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """Labelled inputs on the training device: ``[n, *features]`` and int64 ``[n, *positions]``."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.inputs.shape[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesson:
    """What a student distils: inputs ``[m, *features]``, teacher scores ``[m, classes]``.

    Where an input answers several rows, the last axes are positions first: scores are
    ``[m, positions, classes]``.

    Attributes:
        row_temperatures: ``[m, *positions]``, of the teacher's rows where they were told; None
            for the distiller's own.
        known: bool ``[m, *positions]``, rows that the teacher speaks about; None for all.
    """

    inputs: Tensor
    scores: Tensor
    distiller: Distiller
    row_temperatures: Tensor | None = None
    known: Tensor | None = None

    def __len__(self) -> int:
        return self.inputs.shape[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Student:
    """A model in training."""

    module: nn.Module
    optimizer: torch.optim.Optimizer


def lesson_on(
    consensus: Consensus, inputs: Tensor, *, distiller: Distiller, rows_per_input: int
) -> Lesson:
    """Return what a student learns from a consensus about proxy ``inputs``, on their device."""
    rows, scores = consensus.rows.to(inputs.device), consensus.scores.to(inputs.device)
    told = consensus.row_temperatures
    told = None if told is None else told.to(inputs.device)
    if rows_per_input == 1:
        return Lesson(
            inputs=inputs[rows], scores=scores, distiller=distiller, row_temperatures=told
        )
    asked, place = torch.unique(rows // rows_per_input, return_inverse=True)
    at = (place, rows % rows_per_input)
    shape = (len(asked), rows_per_input)
    known = torch.zeros(shape, dtype=torch.bool, device=inputs.device)
    known[at] = True
    spread = scores.new_zeros((*shape, scores.shape[1]))
    spread[at] = scores
    if told is not None:
        temperatures = told.new_ones(shape)
        temperatures[at] = told
        told = temperatures
    return Lesson(
        inputs=inputs[asked],
        scores=spread,
        distiller=distiller,
        row_temperatures=told,
        known=known,
    )


def as_model_input(inputs: Tensor) -> Tensor:
    """Scale uint8 images to [0, 1] in the layout convolutions run fastest in; widen tokens."""
    if inputs.dtype == torch.int16:
        return inputs.long()
    if inputs.dtype == torch.uint8:
        inputs = inputs.float() / 255
    if inputs.dim() == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def make_optimizer(module: nn.Module, recipe: Training) -> torch.optim.Optimizer:
    """Return the optimiser a client keeps across rounds."""
    if recipe.optimizer is OptimizerName.SGD:
        return torch.optim.SGD(module.parameters(), lr=recipe.learning_rate, momentum=0.9)
    return torch.optim.Adam(module.parameters(), lr=recipe.learning_rate)


def batches(n: int, size: int, *, rng: torch.Generator) -> list[Tensor]:
    """Return the positions ``0 .. n - 1`` in random order, cut into batches."""
    return list(torch.randperm(n, generator=rng).split(size))


def epochs(n: int, size: int, *, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield batches for ever, shuffled anew every epoch."""
    while True:
        yield from batches(n, size, rng=rng)


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
    student.module.train()
    if lesson is None or len(lesson) == 0:
        _private_epochs(student, private, recipe=recipe, task=task, rng=rng)
    elif recipe.order is Order.SEQUENTIAL:
        distil_pass(student, lesson, recipe=recipe, rng=rng)
        _private_epochs(student, private, recipe=recipe, task=task, rng=rng)
    elif len(private) == 0:
        distil_pass(student, lesson, recipe=recipe, rng=rng)
    else:
        _interleaved(student, private, lesson, recipe=recipe, task=task, rng=rng)


def _private_epochs(
    student: Student, private: Examples, *, recipe: Training, task: Task, rng: torch.Generator
) -> None:
    for _ in range(recipe.local_epochs if len(private) else 0):
        for batch in batches(len(private), recipe.batch_size, rng=rng):
            loss = _private_loss(student.module, private, batch, task=task)
            _step(student, loss)


def distil_pass(
    student: Student, lesson: Lesson, *, recipe: Training, rng: torch.Generator
) -> None:
    """Take one pass over the lesson, without any private example; ``student`` changes in place."""
    student.module.train()
    for batch in batches(len(lesson), recipe.batch_size, rng=rng):
        _step(student, lesson_loss(student.module, lesson, batch))


def _interleaved(
    student: Student,
    private: Examples,
    lesson: Lesson,
    *,
    recipe: Training,
    task: Task,
    rng: torch.Generator,
) -> None:
    size = recipe.batch_size
    private_steps = recipe.local_epochs * -(-len(private) // size)
    n_steps = max(private_steps, -(-len(lesson) // size))
    mine, shared = epochs(len(private), size, rng=rng), epochs(len(lesson), size, rng=rng)
    for _ in range(n_steps):
        own_loss = _private_loss(student.module, private, next(mine), task=task)
        loss = recipe.ce_weight * own_loss + lesson_loss(student.module, lesson, next(shared))
        _step(student, loss)


def _private_loss(module: nn.Module, private: Examples, batch: Tensor, *, task: Task) -> Tensor:
    batch = batch.to(private.inputs.device)
    logits = as_rows(module(as_model_input(private.inputs[batch])))
    return task.loss(logits, private.labels[batch].flatten()).mean()


def lesson_loss(module: nn.Module, lesson: Lesson, batch: Tensor) -> Tensor:
    """Return the mean distillation loss of the lesson's inputs at ``batch``, ``[]``."""
    batch = batch.to(lesson.inputs.device)
    logits = as_rows(module(as_model_input(lesson.inputs[batch])))
    scores = as_rows(lesson.scores[batch])
    if lesson.row_temperatures is None:
        losses = lesson.distiller.loss(logits, scores)
    else:
        temperatures = lesson.row_temperatures[batch].flatten()
        losses = lesson.distiller.loss_at(logits, scores, temperatures)
    if lesson.known is None:
        return losses.mean()
    known = lesson.known[batch].flatten()
    return (losses * known).sum() / known.sum()


def _step(student: Student, loss: Tensor) -> None:
    student.optimizer.zero_grad()
    loss.backward()
    student.optimizer.step()


@torch.no_grad()
def predict(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits of ``inputs``, ``[n, *positions, classes]``, in evaluation mode."""
    module.eval()
    return torch.cat(
        [module(as_model_input(part)) for part in inputs.split(PREDICTION_BATCH)] or [inputs[:0]]
    )


def predict_rows(module: nn.Module, inputs: Tensor, rows: Tensor, *, rows_per_input: int) -> Tensor:
    """Return the logits of some rows, ``[len(rows), classes]``; other inputs are not asked."""
    if rows_per_input == 1:
        return predict(module, inputs[rows])
    asked, place = torch.unique(rows // rows_per_input, return_inverse=True)
    logits = predict(module, inputs[asked])
    return as_rows(logits)[place * rows_per_input + rows % rows_per_input]


@torch.no_grad()
def figures(module: nn.Module, examples: Examples, *, task: Task) -> dict[str, float]:
    """Return the task's metrics of the module on ``examples``; empty when there are none."""
    if len(examples) == 0:
        return {}
    return task.figures(as_rows(predict(module, examples.inputs)), examples.labels.flatten())
