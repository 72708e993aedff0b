"""Every executor does what the serial reference does, for every shipped model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedkd.distillers.kl import KL
from fedkd.errors import ConfigError
from fedkd.models.base import initialized, models
from fedkd.tasks import Classification, NextToken
from fedkd.training.executors.choice import EXECUTORS, ExecutorName, choose
from fedkd.training.jobs import Job
from fedkd.training.packing import Packing
from fedkd.training.recipe import OptimizerName, Order, Training
from fedkd.training.steps import Examples, Lesson

CPU = torch.device("cpu")
SIZES = [23, 40, 0, 9]
"""Examples of each client: unequal numbers of steps, and one client with none."""
RECIPES = [
    Training(batch_size=16, local_epochs=2),
    Training(batch_size=16, optimizer=OptimizerName.SGD, learning_rate=0.05),
    Training(batch_size=16, optimizer=OptimizerName.SGD, momentum=0.0, order=Order.SEQUENTIAL),
]


def _module(name: str, client: int) -> nn.Module:
    model, shape = models.get(name)(), (12,) if models.get(name).tokens else (1, 12, 12)
    n_classes = 7 if model.tokens else 5
    rng = torch.Generator().manual_seed(client)
    return initialized(model, shape, n_classes, rng=rng).double()


def _inputs(name: str, n: int, rng: torch.Generator) -> torch.Tensor:
    if models.get(name).tokens:
        return torch.randint(0, 7, (n, 12), generator=rng, dtype=torch.int16)
    return torch.rand(n, 1, 12, 12, generator=rng, dtype=torch.float64)


def _jobs(name: str, recipe: Training, *, n_lesson: int) -> list[Job]:
    rng, tokens = torch.Generator().manual_seed(1), models.get(name).tokens
    n_classes = 7 if tokens else 5
    positions = (12,) if tokens else ()
    task = NextToken(7, 12) if tokens else Classification(5)
    lesson = None
    if n_lesson:
        shape = (n_lesson, *positions, n_classes)
        scores = torch.rand(shape, generator=rng, dtype=torch.float64).softmax(dim=-1)
        known = torch.rand(n_lesson, 12, generator=rng) < 0.7 if tokens else None
        inputs = _inputs(name, n_lesson, rng)
        lesson = Lesson(inputs=inputs, scores=scores, distiller=KL(), known=known)
    return [
        Job(
            private=Examples(
                inputs=_inputs(name, size, rng),
                labels=torch.randint(0, n_classes, (size, *positions), generator=rng),
            ),
            lesson=lesson,
            recipe=recipe,
            task=task,
            order=torch.Generator().manual_seed(client),
            module=torch.Generator().manual_seed(100 + client),
        )
        for client, size in enumerate(SIZES)
    ]


def _rows(name: str, recipe: Training) -> tuple[torch.Tensor, Packing]:
    modules = [_module(name, client) for client in range(len(SIZES))]
    packing = Packing(modules[0], recipe)
    rows = torch.zeros(len(SIZES), packing.width, dtype=torch.float64)
    for row, module in zip(rows, modules, strict=True):
        packing.write(row, module)
    return rows, packing


def _cases() -> list[tuple[str, str]]:
    return [
        (executor, name)
        for executor in ("lean", "stacked")
        for name in models.names()
        if EXECUTORS[executor].fits(_module(name, 0))
    ]


@pytest.mark.parametrize("n_lesson", [0, 37], ids=["private", "lesson"])
@pytest.mark.parametrize("recipe", RECIPES, ids=["adam", "momentum", "sequential"])
@pytest.mark.parametrize(("executor", "name"), _cases())
def test_an_executor_trains_as_the_reference_does(executor, name, recipe, n_lesson):
    expected, packing = _rows(name, recipe)
    start = expected.clone()
    found = expected.clone()
    for _ in range(2):  # the second time, optimisers have a state
        EXECUTORS["serial"].train(expected, _jobs(name, recipe, n_lesson=n_lesson), packing=packing)
        EXECUTORS[executor].train(found, _jobs(name, recipe, n_lesson=n_lesson), packing=packing)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert not torch.equal(expected[0], start[0])
    assert torch.equal(expected[2], start[2]) == (n_lesson == 0)


@pytest.mark.parametrize("n_lesson", [0, 16], ids=["private", "lesson"])
@pytest.mark.parametrize("recipe", RECIPES[1:], ids=["momentum", "sequential"])
@pytest.mark.parametrize("name", ["cnn_small", "cnn_wide"])
def test_a_step_in_single_precision_differs_by_rounding_alone(name, recipe, n_lesson):
    """Where convolutions work in a layout of their own, which double precision has not."""
    rows, packing = _rows(name, recipe)
    expected, found = rows[:1].float(), rows[:1].float()
    for executor, row in (("serial", expected), ("lean", found)):
        job = _jobs(name, recipe, n_lesson=n_lesson)[0]
        few = Examples(inputs=job.private.inputs[:16].float(), labels=job.private.labels[:16])
        lesson = job.lesson
        if lesson is not None:
            lesson = replace(lesson, inputs=lesson.inputs.float(), scores=lesson.scores.float())
        one = replace(job, private=few, lesson=lesson)
        EXECUTORS[executor].train(row, [one], packing=packing)
    assert found[0, -1] == expected[0, -1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found, rows[:1].float())


@pytest.mark.parametrize("n_lesson", [0, 37], ids=["private", "lesson"])
@pytest.mark.parametrize("executor", ["serial", "lean", "stacked"])
def test_examples_that_are_rows_of_one_pool_train_alike(executor, n_lesson):
    apart, packing = _rows("mlp", RECIPES[1])
    pooled = apart.clone()
    jobs = _jobs("mlp", RECIPES[1], n_lesson=n_lesson)
    pool = torch.cat([job.private.inputs for job in reversed(jobs)])
    ends = torch.tensor([len(job.private) for job in reversed(jobs)]).cumsum(0).flip(0)
    of_pool: list[Job] = []
    for job, end in zip(_jobs("mlp", RECIPES[1], n_lesson=n_lesson), ends.tolist(), strict=True):
        labels = job.private.labels
        rows = torch.arange(end - len(labels), end)
        private = Examples(inputs=pool, rows=rows, labels=labels)
        assert torch.equal(private.inputs, job.private.inputs)
        of_pool.append(replace(job, private=private))
    EXECUTORS[executor].train(apart, jobs, packing=packing)
    EXECUTORS[executor].train(pooled, of_pool, packing=packing)
    assert torch.equal(apart, pooled)


@pytest.mark.parametrize("name", models.names())
def test_the_reference_is_a_plain_module_and_optimiser(name):
    """``serial`` over rows gives the bits of a training loop that knows no rows."""
    recipe = RECIPES[0]
    rows, packing = _rows(name, recipe)
    EXECUTORS["serial"].train(rows, _jobs(name, recipe, n_lesson=20), packing=packing)
    job, module = _jobs(name, recipe, n_lesson=20)[0], _module(name, 0)
    module = module.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=recipe.learning_rate)
    for step in job.schedule():
        optimizer.zero_grad()
        job.loss(module, step).backward()
        optimizer.step()
    for key, value in packing.named(rows[0]).items():
        torch.testing.assert_close(value, module.state_dict()[key], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", models.names())
def test_the_table_has_a_fitting_executor_for_every_model(name):
    module = _module(name, 0)
    choice = choose(module, device=CPU)
    assert EXECUTORS[choice.executor].fits(module)
    assert choice.block >= 1
    assert choice.prediction_batch >= 1


def test_an_executor_that_cannot_train_a_model_is_refused_by_name():
    draws = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    with pytest.raises(ConfigError, match=r"runtime\.executor: 'stacked' cannot train this model"):
        choose(draws, device=CPU, pinned=ExecutorName.STACKED)
    assert choose(draws, device=CPU).executor == "serial"


def test_running_statistics_stay_with_their_client():
    recipe = RECIPES[0]
    module = nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5)).double()
    packing = Packing(module, recipe)
    rows = torch.zeros(1, packing.width, dtype=torch.float64)
    packing.write(rows[0], module)
    (job, *_) = _jobs("mlp", recipe, n_lesson=0)
    assert choose(module, device=CPU).executor == "serial"
    EXECUTORS["serial"].train(rows, [job], packing=packing)
    trained = packing.module(rows[0])
    assert int(trained.get_buffer("2.num_batches_tracked")) == rows[0, -1] == 4
    assert not torch.equal(trained.get_buffer("2.running_mean"), torch.zeros(5).double())


def test_frozen_parameters_stay_and_the_others_are_trained_as_by_torch():
    recipe = RECIPES[0]
    module = _module("cnn_small", 0).to(memory_format=torch.channels_last)
    module[0].requires_grad_(False)
    packing = Packing(module, recipe)
    rows = torch.zeros(1, packing.width, dtype=torch.float64)
    packing.write(rows[0], module)
    choice = choose(module, device=CPU)
    assert choice.executor == "serial"
    assert not any(EXECUTORS[name].fits(module) for name in ("lean", "stacked"))
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=recipe.learning_rate)
    for _ in range(2):  # the second time, the optimiser has a state
        job = _jobs("cnn_small", recipe, n_lesson=0)[0]
        EXECUTORS["serial"].train(rows, [job], packing=packing)
        job = _jobs("cnn_small", recipe, n_lesson=0)[0]
        for step in job.schedule():
            optimizer.zero_grad()
            job.loss(module, step).backward()
            optimizer.step()
    for key, value in packing.named(rows[0]).items():
        torch.testing.assert_close(value, module.state_dict()[key], rtol=1e-9, atol=1e-10)
    assert rows[0, -1] == 8


def test_a_client_leaves_nothing_to_the_next_of_its_architecture():
    rows, packing = _rows("cnn_small", RECIPES[0])
    before = packing.template.state_dict()
    kept = {name: value.clone() for name, value in before.items()}
    jobs = _jobs("cnn_small", RECIPES[0], n_lesson=0)
    together, alone = rows.clone(), rows.clone()
    EXECUTORS["lean"].train(together, jobs, packing=packing)
    wrong = Examples(inputs=jobs[0].private.inputs, labels=torch.full((23,), 99))
    broken = replace(jobs[0], private=wrong)
    for n, job in enumerate(_jobs("cnn_small", RECIPES[0], n_lesson=0)):
        with pytest.raises((IndexError, RuntimeError)):
            EXECUTORS["lean"].train(rows[:1].clone(), [broken], packing=packing)
        EXECUTORS["lean"].train(alone[n : n + 1], [job], packing=packing)
    assert torch.equal(alone, together)
    assert torch.equal(rows, _rows("cnn_small", RECIPES[0])[0])
    assert all(torch.equal(kept[name], value) for name, value in before.items())


def test_a_block_of_clients_with_other_lessons_is_not_taught_the_first_ones():
    recipe = RECIPES[1]
    jobs = _jobs("mlp", recipe, n_lesson=20)
    rows, packing = _rows("mlp", recipe)
    odd = [*jobs[:1], replace(jobs[1], lesson=None), *jobs[2:]]
    with pytest.raises(ValueError, match="teaches one lesson to all"):
        EXECUTORS["stacked"].train(rows, odd, packing=packing)


@pytest.mark.parametrize("wide", [7, 50_007])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_to_be_trained_begin_where_memory_is_aligned(dtype, wide):
    packing = Packing(torch.nn.Linear(wide, 3), RECIPES[0])
    rows = packing.room(3, like=torch.empty(0, dtype=dtype))
    assert (rows.shape, rows.dtype) == ((3, packing.width), dtype)
    assert packing.width % 16
    assert [row.data_ptr() % 64 for row in rows] == [0, 0, 0]
