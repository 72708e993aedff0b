"""The auditor's two hands: what every adversary has besides its view, and what really happened."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from fedkd.audit.attacks.base import Bench, Truth
from fedkd.audit.fitting import Fitter, Wanted, fresh
from fedkd.data.federation import arrays_of, layout_rows, load, planted
from fedkd.models.base import models
from fedkd.rng import numpy_stream
from fedkd.scenario import Scenario
from fedkd.training.steps import Examples, Lesson
from fedkd.types import Update


def bench_of(scenario: Scenario) -> Bench:
    """Return the bench of a run.

    What it fits is kept and given out again for the same lesson, passes and seed: do not train it
    further.
    """
    arrays, public, fitter = load(scenario.data), _halves(scenario)[0], Fitter(scenario)
    nothing = Examples(inputs=public.inputs[:0], labels=public.labels[:0])

    def train_many(lots: Iterable[tuple[Examples, int]], passes: int) -> list[nn.Module]:
        wanted = (Wanted(private=examples, lesson=None, seed=seed) for examples, seed in lots)
        return fitter.models(wanted, passes)

    def distil_many(lots: Iterable[tuple[Lesson, int]], passes: int) -> list[nn.Module]:
        wanted = (Wanted(private=nothing, lesson=lesson, seed=seed) for lesson, seed in lots)
        return fitter.models(wanted, passes)

    def load_student(update: Update) -> nn.Module:
        model = scenario.server_model or models.get(scenario.client_models()[0])()
        module = fresh(scenario, model, seed=0)
        module.load_state_dict(update.arrays)
        return module.eval()

    return Bench(
        scenario=scenario,
        task=arrays.task,
        public=public,
        train_many=train_many,
        distil_many=distil_many,
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
