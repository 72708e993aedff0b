"""Times the ways in which a model's clients can be run, on random numbers, and takes the fastest.

What is found is plain data that a run records: the clock is asked once, before anything is
trained, and never again for that run.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from fedkd.tasks import Task
from fedkd.training.executors.choice import (
    EXECUTORS,
    Choice,
    Chosen,
    ExecutorName,
    cached_block,
    choose,
)
from fedkd.training.jobs import Job
from fedkd.training.packing import Packing
from fedkd.training.quickening import quickened
from fedkd.training.recipe import Training
from fedkd.training.steps import Examples, Lesson, make_optimizer, predict

Way = TypeVar("Way")
TRAINING_S, PREDICTION_S = 0.7, 0.3
"""Seconds that a model's executors and its prediction batches are timed for."""
BETTER = 0.95
"""The table's choice stays where nothing takes less than this share of its time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Group:
    """What is timed: clients of one model.

    Attributes:
        model: its name.
        packing: the layout of their rows.
        row: one of them, float ``[width]``, not to be changed.
        examples: makes ``n`` random labelled inputs.
        lesson: makes what a consensus about ``n`` random inputs teaches; None where none is taught.
        recipe: of local training.
        task: gives the loss on private labels.
        n_private: examples of a client.
        most: clients that are ever asked together.
        trains: whether executors train them; DP-SGD does without.
    """

    model: str
    packing: Packing
    row: Tensor
    examples: Callable[[int], Examples]
    lesson: Callable[[int], Lesson] | None
    recipe: Training
    task: Task
    n_private: int
    most: int
    trains: bool = True


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was found about one model.

    Attributes:
        chosen: the fastest.
        training: microseconds that one step of one client takes, by executor and block.
        prediction: microseconds that one input takes, by batch.
    """

    chosen: Chosen
    training: Mapping[tuple[str, int], float]
    prediction: Mapping[int, float]


def calibrate(group: Group) -> Timing:
    """Time every executor that can train the model in two or three blocks, and three batches."""
    known = choose(group.packing.template, device=group.row.device)
    training: dict[tuple[str, int], float] = {}
    executor, block = known.executor, min(known.block, group.most)
    if group.trains:
        training = time_training(group)
        executor, block = fastest(training, usual=(executor, block))
    prediction = time_prediction(group, known)
    chosen = Chosen(
        model=group.model,
        executor=ExecutorName(executor),
        block=block,
        prediction_batch=fastest(prediction, usual=known.prediction_batch),
    )
    return Timing(chosen=chosen, training=training, prediction=prediction)


def fastest(taken: Mapping[Way, float], *, usual: Way) -> Way:
    """Return the way that takes least, or the usual one where that is nearly as fast."""
    best = min(taken, key=lambda way: taken[way])
    near = usual in taken and taken[best] > BETTER * taken[usual]
    return usual if near else best


def time_training(group: Group) -> dict[tuple[str, int], float]:
    """Return microseconds of a client's step by executor and block."""
    names = [name for name, one in EXECUTORS.items() if one.fits(group.packing.template)]
    weights = {(name, block): block for name in names for block in _blocks(name, group)}
    private = [group.examples(group.n_private) for _ in range(min(_DISTINCT, group.most))]
    make_optimizer(group.packing.template, group.recipe)  # the first one takes a second to import

    def run(way: tuple[str, int], n_steps: int) -> float:
        name, block = way
        rows, lesson = group.row.repeat(block, 1), _lesson(group, n_steps)
        jobs = [_job(group, private[n % len(private)], lesson, n_steps) for n in range(block)]
        done = sum(1 for _ in _job(group, private[0], lesson, n_steps).schedule())
        train = partial(EXECUTORS[name].train, rows, jobs, packing=group.packing)
        return seconds(train, rows.device) / (block * done)

    with warnings.catch_warnings():  # vmap says what it has no fast path for; the clock shows it
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return _microseconds(_timed(run, weights, budget=TRAINING_S))


def time_prediction(group: Group, known: Choice) -> dict[int, float]:
    """Return microseconds of an input by prediction batch."""
    usual = known.prediction_batch
    batches = sorted({max(1, usual // _APART), usual, usual * _APART})
    inputs = group.examples(batches[-1]).inputs
    module = quickened(group.packing.module(group.row.clone()), trained=False)

    def run(batch: int, repeats: int) -> float:
        forward = partial(predict, module, inputs[:batch], batch=batch)
        return min(seconds(forward, inputs.device) for _ in range(repeats)) / batch

    return _microseconds(_timed(run, {batch: batch for batch in batches}, budget=PREDICTION_S))


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return what one call takes, until the device is done with it."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _timed(
    run: Callable[[Way, int], float], weights: Mapping[Way, int], *, budget: float
) -> dict[Way, float]:
    """Go all ways in turn until the budget is spent; return the least time of one unit of each.

    A way is left out when one go at it would take all of the budget, as far as lighter ones tell,
    and given up when it takes more than twice the fastest.

    Args:
        run: goes ``effort`` units deep into a way and returns seconds a unit of its weight.
        weights: units of work of one go, by way, one of the lightest first.
        budget: in seconds, without the first go at each, which only warms up.
    """
    warm: dict[Way, float] = {}
    for way, weight in weights.items():
        if weight == min(weights.values()) or weight * min(warm.values()) < budget:
            warm[way] = run(way, 1)
    effort = max(1, min(_EFFORT, int(budget / 10 / _heaviest(weights, warm))))
    least: dict[Way, float] = {}
    started = time.perf_counter()
    while not least or time.perf_counter() - started < budget:
        for way in warm:
            if way not in least or least[way] < _HOPELESS * min(least.values()):
                least[way] = min(run(way, effort), least.get(way, float("inf")))
    return least


def _heaviest(weights: Mapping[Way, int], warm: Mapping[Way, float]) -> float:
    return max(1e-9, max(weights[way] * min(warm.values()) for way in warm))


def _blocks(executor: str, group: Group) -> list[int]:
    """Return how many clients to try together: one where an executor takes one after another."""
    if executor != ExecutorName.STACKED:
        return [1]
    usual = cached_block(group.packing.size)
    return sorted({min(group.most, max(1, n)) for n in (usual // _APART, usual, usual * _APART)})


def _lesson(group: Group, n_steps: int) -> Lesson | None:
    return None if group.lesson is None else group.lesson(n_steps * group.recipe.batch_size)


def _job(group: Group, private: Examples, lesson: Lesson | None, n_steps: int) -> Job:
    """Return a job of ``n_steps`` steps of each kind, on as many examples as a client has."""
    size = group.recipe.batch_size
    held = Examples(
        inputs=private.inputs[: n_steps * size], labels=private.labels[: n_steps * size]
    )
    an_epoch = -(-len(held) // size)
    return Job(
        private=held,
        lesson=lesson,
        recipe=replace(group.recipe, local_epochs=max(1, n_steps // max(1, an_epoch))),
        task=group.task,
        order=torch.Generator().manual_seed(0),
        module=torch.Generator().manual_seed(0),
    )


def _microseconds(taken: Mapping[Way, float]) -> dict[Way, float]:
    return {way: 1e6 * spent for way, spent in taken.items()}


_APART, _HOPELESS, _EFFORT, _DISTINCT = 4, 2.0, 8, 16
