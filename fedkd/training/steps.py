"""Training steps as plain functions, shared by clients and by a student on the server.

No function here reads a number back from the device inside a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fedkd.distillers.base import Distiller
from fedkd.tasks import Task, as_rows
from fedkd.training.recipe import OptimizerName, Training
from fedkd.types import Consensus

PREDICTION_BATCH = 512
"""Rows of one forward pass without gradients."""


class Examples:
    """Labelled inputs on the training device: ``[n, *features]`` and int64 ``[n, *positions]``.

    Attributes:
        labels: of each example.
        pool: inputs that the examples are some of, from which batches of several clients are read
            at once.
        rows: int64 ``[n]``, which of the pool; None for all.
    """

    def __init__(self, *, inputs: Tensor, labels: Tensor, rows: Tensor | None = None) -> None:
        self.labels, self.pool, self.rows = labels, inputs, rows

    @cached_property
    def inputs(self) -> Tensor:
        """The examples' own inputs, copied from the pool when they are first asked for."""
        return self.pool if self.rows is None else self.pool.index_select(0, self.rows)

    def __len__(self) -> int:
        return self.labels.shape[0]


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


def scaled(inputs: Tensor) -> Tensor:
    """Return what a model reads: uint8 images as [0, 1], tokens as int64, the rest as it is."""
    if inputs.dtype == torch.int16:
        return inputs.long()
    if inputs.dtype == torch.uint8:
        return inputs.float().div_(255)
    return inputs


def as_model_input(inputs: Tensor) -> Tensor:
    """Scale uint8 images to [0, 1] in the layout convolutions run fastest in; widen tokens."""
    inputs = scaled(inputs)
    if inputs.dim() == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def make_optimizer(module: nn.Module, recipe: Training) -> torch.optim.Optimizer:
    """Return the optimiser a client keeps across rounds."""
    if recipe.optimizer is OptimizerName.SGD:
        return torch.optim.SGD(
            module.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum
        )
    return torch.optim.Adam(module.parameters(), lr=recipe.learning_rate)


def batches(n: int, size: int, *, rng: torch.Generator) -> list[Tensor]:
    """Return the positions ``0 .. n - 1`` in random order, cut into batches."""
    return list(torch.randperm(n, generator=rng).split(size))


def epochs(n: int, size: int, *, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield batches for ever, shuffled anew every epoch."""
    while True:
        yield from batches(n, size, rng=rng)


def distil_pass(
    student: Student, lesson: Lesson, *, recipe: Training, rng: torch.Generator
) -> None:
    """Take one pass over the lesson, without any private example; ``student`` changes in place."""
    student.module.train()
    for batch in batches(len(lesson), recipe.batch_size, rng=rng):
        take_step(student, lesson_loss(student.module, lesson, batch))


def private_loss(module: nn.Module, private: Examples, batch: Tensor, *, task: Task) -> Tensor:
    """Return the mean loss of the private examples at ``batch``, ``[]``."""
    batch = batch.to(private.inputs.device)
    logits = as_rows(module(as_model_input(private.inputs.index_select(0, batch))))
    return task.loss(logits, private.labels.index_select(0, batch).flatten()).mean()


def lesson_loss(module: nn.Module, lesson: Lesson, batch: Tensor) -> Tensor:
    """Return the mean distillation loss of the lesson's inputs at ``batch``, ``[]``."""
    batch = batch.to(lesson.inputs.device)
    logits = as_rows(module(as_model_input(lesson.inputs[batch])))
    losses = lesson_losses(logits, lesson, batch)
    if lesson.known is None:
        return losses.mean()
    known = lesson.known[batch].flatten()
    return (losses * known).sum() / known.sum()


def lesson_losses(logits: Tensor, lesson: Lesson, batch: Tensor) -> Tensor:
    """Return the distillation loss of each row of the lesson's inputs at ``batch``, ``[rows]``.

    ``logits`` are theirs, ``[rows, classes]``; rows that the teacher is silent about count too.
    """
    scores = as_rows(lesson.scores[batch])
    if lesson.row_temperatures is None:
        return lesson.distiller.loss(logits, scores)
    return lesson.distiller.loss_at(logits, scores, lesson.row_temperatures[batch].flatten())


def lesson_slopes(logits: Tensor, lesson: Lesson, batch: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of the weighed sum of :func:`lesson_losses`, ``[rows, classes]``."""
    told = lesson.row_temperatures
    temperatures = None if told is None else told[batch].flatten()
    scores = as_rows(lesson.scores[batch])
    return lesson.distiller.slopes(logits, scores, weights, temperatures)


def take_step(student: Student, loss: Tensor) -> None:
    """Take one optimiser step down a loss."""
    student.optimizer.zero_grad()
    loss.backward()
    student.optimizer.step()


@torch.no_grad()
def predict(module: nn.Module, inputs: Tensor, *, batch: int = PREDICTION_BATCH) -> Tensor:
    """Return the logits of ``inputs``, ``[n, *positions, classes]``, in evaluation mode.

    ``batch`` inputs are taken at a time; an empty ``inputs`` gives an empty answer.
    """
    module.eval()
    return torch.cat([module(as_model_input(part)) for part in inputs.split(batch)] or [inputs[:0]])


def predict_rows(
    module: nn.Module,
    inputs: Tensor,
    rows: Tensor,
    *,
    rows_per_input: int,
    batch: int = PREDICTION_BATCH,
) -> Tensor:
    """Return the logits of some rows, ``[len(rows), classes]``; other inputs are not asked."""
    if rows_per_input == 1:
        return predict(module, _some(inputs, rows), batch=batch)
    asked, place = torch.unique(rows // rows_per_input, return_inverse=True)
    logits = predict(module, inputs[asked], batch=batch)
    return as_rows(logits)[place * rows_per_input + rows % rows_per_input]


def _some(inputs: Tensor, rows: Tensor) -> Tensor:
    """Return ``inputs[rows]``, without a copy where those are all."""
    whole = rows.is_cpu and len(rows) == len(inputs)
    return inputs if whole and torch.equal(rows, torch.arange(len(rows))) else inputs[rows]


@torch.no_grad()
def figures(
    module: nn.Module, examples: Examples, *, task: Task, batch: int = PREDICTION_BATCH
) -> dict[str, float]:
    """Return the task's metrics of the module on ``examples``; empty when there are none."""
    if len(examples) == 0:
        return {}
    logits = predict(module, examples.inputs, batch=batch)
    return task.figures(as_rows(logits), examples.labels.flatten())
