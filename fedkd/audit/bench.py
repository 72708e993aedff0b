"""The auditor's two hands: what every adversary has besides its view, and what really happened."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fedkd.audit.attacks.base import Bench, Truth
from fedkd.data.federation import arrays_of, layout_rows, load, planted
from fedkd.models.base import Model, initialized, models
from fedkd.rng import borrowed, numpy_stream, torch_stream
from fedkd.scenario import Scenario
from fedkd.training.recipe import Order
from fedkd.training.steps import Examples, Lesson, Student, make_optimizer, train_round
from fedkd.types import Update


def bench_of(scenario: Scenario) -> Bench:
    """Return the bench of a run.

    ``train`` and ``distil`` fit the first client's architecture, without DP and without a
    protector, in so many passes with the scenario's optimizer, learning rate and batch size. What
    they return is kept and given out again for the same lesson, passes and seed: do not train it
    further.
    """
    arrays, public = load(scenario.data), _halves(scenario)[0]
    trained: dict[str, nn.Module] = {}

    def fitted(private: Examples, lesson: Lesson | None, passes: int, seed: int) -> nn.Module:
        key = _digest(private, lesson, passes, seed)
        if key not in trained:
            module = _fresh(scenario, models.get(scenario.client_models()[0])(), seed=seed)
            student = Student(module=module, optimizer=make_optimizer(module, scenario.training))
            _fit(student, private, lesson, scenario=scenario, passes=passes, seed=seed)
            trained[key] = module.eval()
        return trained[key]

    def train(examples: Examples, passes: int, seed: int) -> nn.Module:
        return fitted(examples, None, passes, seed)

    def distil(lesson: Lesson, passes: int, seed: int) -> nn.Module:
        return fitted(_none_like(public), lesson, passes, seed)

    def load_student(update: Update) -> nn.Module:
        model = scenario.server_model or models.get(scenario.client_models()[0])()
        module = _fresh(scenario, model, seed=0)
        module.load_state_dict(update.arrays)
        return module.eval()

    return Bench(
        scenario=scenario,
        task=arrays.task,
        public=public,
        train=train,
        distil=distil,
        load=load_student,
    )


def truth_of(scenario: Scenario) -> Truth:
    """Return the ground truth of a run, from the same functions that laid its data out."""
    layout = scenario.layout()
    arrays, everything = load(scenario.data), planted(layout)
    n_own = len(arrays.train_labels)
    members: dict[int, Examples] = {}
    counts = np.zeros((scenario.clients, arrays.n_classes))
    clients = layout_rows(layout)[1]
    given = np.concatenate([rows.train[rows.contributed] for rows in clients])
    for client, rows in enumerate(clients):
        natural = rows.train[rows.train < n_own]
        counts[client] = np.bincount(
            arrays.train_labels[natural].ravel(), minlength=arrays.n_classes
        )
        kept = np.setdiff1d(natural, given)
        members[client] = Examples(
            inputs=torch.from_numpy(arrays.train_inputs[kept]),
            labels=torch.from_numpy(arrays.train_labels[kept]),
        )
    return Truth(
        members=members,
        nonmembers=_halves(scenario)[1],
        planted=everything,
        label_counts=counts,
    )


def _halves(scenario: Scenario) -> tuple[Examples, Examples]:
    """Return the public half of the test set, and the half that serves as non-members.

    A test input that became a canary was trained on, with another label: it is in neither half.
    """
    arrays, layout = load(scenario.data), scenario.layout()
    order = numpy_stream(layout.seed, "audit halves").permutation(len(arrays.test_labels))
    added = arrays_of(layout).train_inputs[len(arrays.train_labels) :]
    trained = {row.tobytes() for row in added}
    order = order[[arrays.test_inputs[at].tobytes() not in trained for at in order]]
    cut = len(order) // 2
    public, nonmembers = (
        Examples(
            inputs=torch.from_numpy(arrays.test_inputs[rows]),
            labels=torch.from_numpy(arrays.test_labels[rows]),
        )
        for rows in (np.sort(order[:cut]), np.sort(order[cut:]))
    )
    return public, nonmembers


def _fresh(scenario: Scenario, model: Model, *, seed: int) -> nn.Module:
    arrays = load(scenario.data)
    rng = torch_stream(seed, "audit initialization")
    return initialized(model, arrays.input_shape, arrays.n_classes, rng=rng)


def _fit(
    student: Student,
    private: Examples,
    lesson: Lesson | None,
    *,
    scenario: Scenario,
    passes: int,
    seed: int,
) -> None:
    """Train on the examples or on the lesson, so many passes."""
    recipe = replace(scenario.training, local_epochs=1, order=Order.SEQUENTIAL)
    rng, task = torch_stream(seed, "audit batches"), load(scenario.data).task
    with borrowed(torch_stream(seed, "audit module")):
        for _ in range(passes):
            train_round(student, private, lesson, recipe=recipe, task=task, rng=rng)


def _none_like(examples: Examples) -> Examples:
    return Examples(inputs=examples.inputs[:0], labels=examples.labels[:0])


def _digest(private: Examples, lesson: Lesson | None, passes: int, seed: int) -> str:
    sha = hashlib.sha256(f"{passes} {seed}".encode())
    tensors = [private.inputs, private.labels]
    if lesson is not None:
        tensors += [lesson.inputs, lesson.scores]
        tensors += [t for t in (lesson.row_temperatures, lesson.known) if t is not None]
    for tensor in tensors:
        sha.update(f"{tuple(tensor.shape)}".encode())
        sha.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return sha.hexdigest()
