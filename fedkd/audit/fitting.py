"""The auditor's own models: fitted a block at a time, each kept and given out again."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.data.federation import load
from fedkd.models.base import Model, initialized, models
from fedkd.rng import torch_stream
from fedkd.scenario import Scenario
from fedkd.training.executors.choice import EXECUTORS, choose
from fedkd.training.jobs import Job, Reading, end_to_end
from fedkd.training.packing import Packing
from fedkd.training.recipe import Order
from fedkd.training.steps import Examples, Lesson


@dataclass(frozen=True, eq=False, kw_only=True)
class Wanted:
    """One model that is asked for.

    Attributes:
        private: labelled examples to fit; none where there is a lesson.
        lesson: soft targets to fit.
        seed: of its initial weights, its batches and what it draws itself.
    """

    private: Examples
    lesson: Lesson | None
    seed: int


class Fitter:
    """Fits the first client's architecture, without DP and without a protector.

    Optimizer, learning rate and batch size are the scenario's.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._recipe = replace(scenario.training, order=Order.SEQUENTIAL)
        template = self._fresh(0)
        self._packing = Packing(template, self._recipe)
        choice = choose(template, device=torch.device("cpu"))
        self._executor, self._block = EXECUTORS[choice.executor], choice.block
        self._fitted: dict[str, nn.Module] = {}

    def models(self, wanted: Iterable[Wanted], passes: int) -> list[nn.Module]:
        """Return a model for each, in evaluation mode, after so many passes.

        They are read a block at a time: no more examples are held at once where ``wanted`` makes
        them as it is read. The same examples or lesson, passes and seed give the same object.
        """
        keys: list[str] = []
        waiting: dict[str, Wanted] = {}
        for one in wanted:
            keys.append(_digest(one, passes))
            if keys[-1] not in self._fitted:
                waiting[keys[-1]] = one
            if len(waiting) == self._block:
                self._work_off(waiting, passes)
        self._work_off(waiting, passes)
        return [self._fitted[key] for key in keys]

    def _work_off(self, waiting: dict[str, Wanted], passes: int) -> None:
        """Fit all that wait, as many together as can learn from one lesson."""
        groups: dict[object, dict[str, Wanted]] = {}
        for key, one in waiting.items():
            groups.setdefault(_kind(one.lesson), {})[key] = one
        for group in groups.values():
            found = self._together([*group.values()], passes)
            self._fitted |= zip(group, found, strict=True)
        waiting.clear()

    def _together(self, wanted: Sequence[Wanted], passes: int) -> list[nn.Module]:
        """Fit in one executor's call."""
        rows = torch.zeros(len(wanted), self._packing.width)
        for row, one in zip(rows, wanted, strict=True):
            self._packing.write(row, self._fresh(one.seed))
        self._executor.train(rows, self._jobs(wanted, passes), packing=self._packing)
        return [self._module(row) for row in rows]

    def _jobs(self, wanted: Sequence[Wanted], passes: int) -> list[Job]:
        """Lay the lessons one after the other, for jobs done together read the same one."""
        lessons = [one.lesson for one in wanted if one.lesson is not None]
        joined, task = _joined(lessons), load(self._scenario.data).task
        recipe = replace(self._recipe, local_epochs=passes)
        jobs: list[Job] = []
        start = 0
        for one in wanted:
            length = 0 if one.lesson is None else len(one.lesson)
            jobs.append(
                _Share(
                    private=one.private,
                    lesson=joined,
                    recipe=recipe,
                    task=task,
                    order=torch_stream(one.seed, "audit batches"),
                    module=torch_stream(one.seed, "audit module"),
                    mine=range(start, start + length),
                )
            )
            start += length
        return jobs

    def _fresh(self, seed: int) -> nn.Module:
        return fresh(self._scenario, models.get(self._scenario.client_models()[0])(), seed=seed)

    def _module(self, row: Tensor) -> nn.Module:
        """Return a module of its own: the row holds the optimizer's state, too."""
        module, named = copy.deepcopy(self._packing.template), self._packing.named(row)
        with torch.no_grad():
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                tensor.copy_(named[name])
        return module.eval()


@dataclass(eq=False, kw_only=True)
class _Share(Job):
    """A job that reads its own part of a lesson, the positions ``mine``, in every epoch."""

    mine: range

    def readings(self) -> tuple[Reading, Reading]:
        """Read no private examples beside a lesson; shuffled anew in every epoch."""
        if self.lesson is None:
            return super().readings()
        n, size = len(self.mine), self.recipe.batch_size
        n_epochs = self.recipe.local_epochs if n else 0
        epochs = [torch.randperm(n, generator=self.order) for _ in range(n_epochs)]
        order, steps = end_to_end(epochs) + self.mine.start, n_epochs * -(-n // size)
        nothing = Reading(end_to_end([]), 0, size, 0, 0)
        return nothing, Reading(order, n, size, 0, steps)


def fresh(scenario: Scenario, model: Model, *, seed: int) -> nn.Module:
    """Return an untrained model for the scenario's data."""
    arrays = load(scenario.data)
    rng = torch_stream(seed, "audit initialization")
    return initialized(model, arrays.input_shape, arrays.n_classes, rng=rng)


def _kind(lesson: Lesson | None) -> object:
    """Return a key that lessons share if they can be laid one after the other."""
    if lesson is None:
        return None
    told, known = lesson.row_temperatures is not None, lesson.known is not None
    return lesson.distiller, lesson.inputs.dtype, lesson.scores.dtype, told, known


def _joined(lessons: Sequence[Lesson]) -> Lesson | None:
    """Return lessons of one kind as one; a single lesson as it is, and None for none."""
    if len(lessons) < 2:
        return lessons[0] if lessons else None
    told = [one.row_temperatures for one in lessons if one.row_temperatures is not None]
    known = [one.known for one in lessons if one.known is not None]
    return Lesson(
        inputs=torch.cat([one.inputs for one in lessons]),
        scores=torch.cat([one.scores for one in lessons]),
        distiller=lessons[0].distiller,
        row_temperatures=torch.cat(told) if told else None,
        known=torch.cat(known) if known else None,
    )


def _digest(wanted: Wanted, passes: int) -> str:
    sha = hashlib.sha256(f"{passes} {wanted.seed}".encode())
    tensors, lesson = [wanted.private.inputs, wanted.private.labels], wanted.lesson
    if lesson is not None:
        tensors += [lesson.inputs, lesson.scores]
        tensors += [t for t in (lesson.row_temperatures, lesson.known) if t is not None]
    for tensor in tensors:
        sha.update(f"{tuple(tensor.shape)}".encode())
        sha.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return sha.hexdigest()
