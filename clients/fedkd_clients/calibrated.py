"""Settles how a simulation's clients are run, by timing what their models allow on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median_low
from typing import Any

import torch
from torch.nn.functional import one_hot

from fedkd.data.federation import layout_rows, load
from fedkd.errors import ConfigError
from fedkd.methods.base import CoDistillation, Method
from fedkd.registry import describe, did_you_mean
from fedkd.runtime import Backend
from fedkd.scenario import Scenario
from fedkd.tasks import Task
from fedkd.training.executors.calibration import Group, Timing, calibrate
from fedkd.training.steps import Examples, Lesson
from fedkd.transport.batch import group_of
from fedkd_clients.app import device_of
from fedkd_clients.architectures import Architectures


def calibrated(scenario: Scenario, *, alone: bool) -> tuple[Scenario, list[dict[str, Any]]]:
    """Return the scenario with a choice for every model, and what was timed, as plain data.

    A model that has a choice keeps it, after a check; without ``runtime.calibrate`` nothing is
    timed.

    Args:
        scenario: with every noise multiplier known.
        alone: whether one process, with all its threads, hosts the clients; workers have one each.

    Raises:
        ConfigError: a choice or a pinned executor cannot train its model.
    """
    names, runtime = list(dict.fromkeys(scenario.client_models())), scenario.runtime
    if not runtime.calibrate and not runtime.choices:
        return scenario, []
    _check(scenario, names)
    with _threads(runtime.threads if alone else 1):
        models = Architectures(scenario, device=device_of(runtime))
        found = [calibrate(_group(scenario, models, name)) for name in runtime.untimed(names)]
    choices = (*runtime.choices, *(timing.chosen for timing in found))
    settled = replace(scenario, runtime=replace(runtime, choices=choices))
    return settled, [_record(timing) for timing in found]


def _check(scenario: Scenario, names: Sequence[str]) -> None:
    """Refuse choices of models that no client has, and choices that do not fit their model."""
    models, dealt = Architectures(scenario, device=torch.device("cpu")), scenario.client_models()
    for chosen in scenario.runtime.choices:
        if chosen.model not in names:
            raise ConfigError(
                f"runtime.choices: no client has the model {chosen.model!r}"
                f"{did_you_mean(chosen.model, names)}"
            )
        models.choice(dealt.index(chosen.model))


def _group(scenario: Scenario, models: Architectures, name: str) -> Group:
    """Describe the clients of one model by what is public of a simulation: shapes and sizes."""
    clients = [c for c, model in enumerate(scenario.client_models()) if model == name]
    packing, row = models.packing(clients[0]), models.newcomer(clients[0]).row
    arrays = load(scenario.data)
    examples = _examples(scenario, device=row.device)
    _, held = layout_rows(scenario.layout())
    together = Counter(group_of(c, n_clients=scenario.clients) for c in clients)
    return Group(
        model=name,
        packing=packing,
        row=row,
        examples=examples,
        lesson=_lesson(scenario.method, examples, arrays.task),
        recipe=scenario.training,
        task=arrays.task,
        n_private=max(1, median_low(len(held[client].train) for client in clients)),
        most=1 if scenario.runtime.backend is Backend.FLOWER else max(together.values()),
        trains=not scenario.privacy.dp_sgd,
    )


def _examples(scenario: Scenario, *, device: torch.device) -> Callable[[int], Examples]:
    """Return what makes random inputs as the data set's are, and labels."""
    arrays, rng = load(scenario.data), torch.Generator().manual_seed(0)
    like = torch.from_numpy(arrays.train_inputs[:1])
    top = arrays.n_classes if like.dtype == torch.int16 else 256

    def made(n: int) -> Examples:
        shape, positions = (n, *arrays.input_shape), arrays.train_labels.shape[1:]
        if like.is_floating_point():
            inputs = torch.randn(shape, generator=rng).to(like.dtype)
        else:
            inputs = torch.randint(0, top, shape, generator=rng).to(like.dtype)
        labels = torch.randint(0, arrays.n_classes, (n, *positions), generator=rng)
        return Examples(inputs=inputs.to(device), labels=labels.to(device))

    return made


def _lesson(
    method: Method, examples: Callable[[int], Examples], task: Task
) -> Callable[[int], Lesson] | None:
    """Return what makes a random consensus of a method's kind; None for methods without one."""
    if not isinstance(method, CoDistillation):
        return None
    distiller = method.distiller

    def made(n: int) -> Lesson:
        some = examples(n)
        scores = one_hot(some.labels, task.n_classes).float()
        return Lesson(inputs=some.inputs, scores=scores, distiller=distiller)

    return made


@contextmanager
def _threads(wanted: int) -> Generator[None]:
    """Use as many torch threads here as the clients will have where they are trained."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _record(timing: Timing) -> dict[str, Any]:
    training = [
        {"executor": executor, "block": block, "microseconds_a_step": spent}
        for (executor, block), spent in timing.training.items()
    ]
    prediction = [
        {"batch": batch, "microseconds_an_input": spent}
        for batch, spent in timing.prediction.items()
    ]
    return {"chosen": describe(timing.chosen), "training": training, "prediction": prediction}
