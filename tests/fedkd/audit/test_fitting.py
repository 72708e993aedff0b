"""Models fitted together are the models fitted one after the other with a plain optimizer."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedkd.audit.bench import bench_of
from fedkd.audit.fitting import fresh
from fedkd.distillers.kl import KL
from fedkd.distillers.mae import MAE
from fedkd.models.base import models
from fedkd.rng import borrowed, torch_stream
from fedkd.training.jobs import train_round
from fedkd.training.recipe import Order
from fedkd.training.steps import Examples, Lesson, Student, make_optimizer, predict

PASSES = 3
SIZES = [50, 120, 7, 64]
"""Of the lots: other numbers of steps, and a last batch of another size."""
CLOSE = 2e-3
"""Of logits, after so few passes that no rounding error has grown."""


def _plain(scenario, lot, seed) -> nn.Module:
    """Fit one model, as a training loop would that knows no blocks."""
    module = fresh(scenario, models.get(scenario.client_models()[0])(), seed=seed)
    student = Student(module=module, optimizer=make_optimizer(module, scenario.training))
    recipe = replace(scenario.training, local_epochs=1, order=Order.SEQUENTIAL)
    bench = bench_of(scenario)
    lesson = lot if isinstance(lot, Lesson) else None
    own = _part(bench.public, 0, 0) if lesson is not None else lot
    rng = torch_stream(seed, "audit batches")
    with borrowed(torch_stream(seed, "audit module")):
        for _ in range(PASSES):
            train_round(student, own, lesson, recipe=recipe, task=bench.task, rng=rng)
    return module


def _part(examples: Examples, start: int, size: int) -> Examples:
    at = slice(start, start + size)
    return Examples(inputs=examples.inputs[at], labels=examples.labels[at])


def _lots(public: Examples) -> list[tuple[Examples, int]]:
    return [(_part(public, 11 * seed, size), seed) for seed, size in enumerate(SIZES)]


def _lesson(public: Examples, start: int, size: int, **more) -> Lesson:
    rng = torch.Generator().manual_seed(start)
    scores = torch.rand(size, 10, generator=rng).mul(4).softmax(dim=1)
    part = _part(public, start, size)
    return Lesson(**{"inputs": part.inputs, "scores": scores, "distiller": KL(), **more})


def _lessons(public: Examples) -> list[tuple[Lesson, int]]:
    """Return lessons of unequal lengths; some cannot be laid one after the other."""
    told = {"row_temperatures": torch.linspace(1, 3, 40)}
    kinds = [(50, {}), (120, {}), (0, {}), (40, told), (64, {"distiller": MAE()}), (40, told)]
    return [
        (_lesson(public, 13 * seed, size, **more), seed) for seed, (size, more) in enumerate(kinds)
    ]


def _same(found: nn.Module, expected: nn.Module, inputs: torch.Tensor) -> bool:
    return torch.allclose(predict(found, inputs), predict(expected, inputs), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("optimizer", ["optimizer: adam", "optimizer: sgd, learning_rate: 0.05"])
@pytest.mark.parametrize("name", ["mlp", "cnn_small"])
@pytest.mark.parametrize("make", [_lots, _lessons], ids=["examples", "lessons"])
def test_together_is_one_by_one(tiny, name, optimizer, make):
    scenario = tiny(f"models={name}", f"training={{batch_size: 16, {optimizer}}}")
    public = bench_of(scenario).public
    lots = make(public)
    together, alone = bench_of(scenario), bench_of(scenario)
    if make is _lots:
        found = together.train_many(lots, PASSES)
        single = [alone.train(lot, PASSES, seed) for lot, seed in lots]
    else:
        found = together.distil_many(lots, PASSES)
        single = [alone.distil(lot, PASSES, seed) for lot, seed in lots]
    for (lot, seed), ours, one in zip(lots, found, single, strict=True):
        expected = _plain(scenario, lot, seed)
        untrained = fresh(scenario, models.get(name)(), seed=seed)
        assert _same(ours, expected, public.inputs)
        assert _same(one, expected, public.inputs)
        assert _same(ours, untrained, public.inputs) == (len(lot) == 0)
    assert not _same(found[0], found[1], public.inputs)


def test_nothing_is_drawn_from_the_global_stream(tiny):
    bench = bench_of(tiny("models=mlp"))
    state = torch.get_rng_state()
    bench.train_many(_lots(bench.public), 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_text_model_is_fitted_alike(tiny):
    """Its rows are known only in part, and it runs one after the other."""
    scenario = tiny("data=gutenberg_mini", "models=gru_char", "partition=natural", "method=fedmd")
    public = bench_of(scenario).public
    lots = [(_part(public, 0, 6), 0), (_part(public, 6, 9), 1)]
    known = torch.rand(6, public.labels.shape[1], generator=torch.Generator().manual_seed(0)) < 0.5
    teacher = fresh(scenario, models.get("gru_char")(), seed=9)
    scores = predict(teacher, public.inputs[:6]).softmax(dim=-1)
    lesson = Lesson(inputs=public.inputs[:6], scores=scores, distiller=KL(), known=known)
    found = bench_of(scenario).train_many(lots, PASSES)
    found += bench_of(scenario).distil_many([(lesson, 5)], PASSES)
    for ours, (lot, seed) in zip(found, [*lots, (lesson, 5)], strict=True):
        assert _same(ours, _plain(scenario, lot, seed), public.inputs[:20])


def test_what_was_fitted_before_is_given_out_again(tiny):
    bench = bench_of(tiny("models=mlp"))
    lots = _lots(bench.public)
    first = bench.train(*lots[1][:1], PASSES, 1)
    found = bench.train_many([*lots, lots[0]], PASSES)
    assert found[1] is first
    assert found[0] is found[4]
    assert bench.train_many(lots, PASSES) == found[:4]
    assert bench.train(lots[1][0], PASSES + 1, 1) is not first
    assert bench.train(lots[1][0], PASSES, 2) is not first
    assert not first.training


@pytest.mark.parametrize(("name", "most"), [("cnn_small", 2), ("mlp", 512)])
def test_no_more_than_a_block_of_lots_is_held(tiny, name, most):
    bench = bench_of(tiny(f"models={name}"))
    alive, peak = [0], [0]

    def gone() -> None:
        alive[0] -= 1

    def lots():
        for seed in range(6 if name == "cnn_small" else 600):
            examples = _part(bench.public, seed % 50, 4)
            weakref.finalize(examples, gone)
            alive[0] += 1
            peak[0] = max(peak[0], alive[0])
            yield examples, seed

    found = bench.train_many(lots(), 1)
    gc.collect()
    assert len({id(one) for one in found}) == len(found)
    assert 0 < peak[0] <= most
    assert alive[0] == 0
