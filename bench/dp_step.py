"""One step of DP-SGD by every way to clip that fits a model, beside one without privacy.

    python -m bench.dp_step [--models mlp,cnn_small] [--batch 32] [--repeats 15]

One thread, one process, all sides in turn. Every side owns a model laid out as a client's is and
takes the same batch; a private step draws its Poisson batch (with probability 1, so that sizes are
equal), clips, adds noise to all parameters and lets the optimizer step. Opacus is its hooks and
its ``DPOptimizer``'s clip, as fedkd uses them where nothing faster fits.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from fedkd_clients.clipping import Way
from fedkd_clients.dp_training import PrivateGradients, Streams
from torch import nn

from bench import harness
from bench.harness import Table, figure, pair
from fedkd.models.base import initialized, models
from fedkd.privacy.settings import Privacy
from fedkd.scenario import Scenario
from fedkd.tasks import Classification, NextToken, Task
from fedkd.training.packing import Packing
from fedkd.training.recipe import OptimizerName, Training
from fedkd.training.steps import Examples, Student, private_loss, take_step

PLAIN, CLASSES, SHAPE, LENGTH = "not private", 10, (1, 28, 28), 64
MODELS = ("mlp", "cnn_small", "cnn_wide", "resnet8", "transformer_char")


def task_of(model: str) -> Task:
    """Return images of 28 x 28 for most models, text for those that read tokens."""
    return NextToken(64, LENGTH) if models.get(model).tokens else Classification(CLASSES)


def module_of(model: str) -> nn.Module:
    """Return a fresh module, always the same."""
    shape = (LENGTH,) if models.get(model).tokens else SHAPE
    rng = torch.Generator().manual_seed(0)
    return initialized(models.get(model)(), shape, task_of(model).n_classes, rng=rng)


def batch_of(model: str, size: int) -> Examples:
    """Return random examples."""
    rng, task = torch.Generator().manual_seed(1), task_of(model)
    if isinstance(task, NextToken):
        text = torch.randint(0, task.n_classes, (size, LENGTH + 1), generator=rng)
        return Examples(inputs=text[:, :-1].to(torch.int16), labels=text[:, 1:])
    inputs = torch.randint(0, 256, (size, *SHAPE), generator=rng, dtype=torch.uint8)
    return Examples(inputs=inputs, labels=torch.randint(0, CLASSES, (size,), generator=rng))


def student_of(model: str, recipe: Training) -> Student:
    """Return a student whose parameters lie in one row, as a client's do."""
    packing = Packing(module_of(model), recipe)
    row = torch.zeros(packing.width)
    packing.write(row, module_of(model))
    student = packing.student(row)
    student.module.train()
    return student


def sides(
    model: str, size: int, *, steps: int, held: contextlib.ExitStack
) -> dict[str, Callable[[], object]]:
    """Return ``steps`` steps of every side; hooks stay in their modules as long as ``held``."""
    recipe = Training(optimizer=OptimizerName.SGD, learning_rate=0.01, batch_size=size)
    scenario = Scenario(
        training=recipe, privacy=Privacy(noise_multiplier=1.0, sampling_probability=1.0)
    )
    examples, task = batch_of(model, size), task_of(model)
    found: dict[str, Callable[[], object]] = {}

    def add(name: str, step: Callable[[], object]) -> None:
        found[name] = lambda: [step() for _ in range(steps)]

    def private(way: Way | None) -> Callable[[], object]:
        student = student_of(model, recipe)
        streams = {name: torch.Generator() for name in ("sampling", "noise", "module", "order")}
        gradients = PrivateGradients(
            student, examples, scenario=scenario, task=task, streams=Streams(**streams), way=way
        )
        held.enter_context(gradients.attached(1_000_000))
        return lambda: (gradients.compute(), student.optimizer.step())

    plain, rows = student_of(model, recipe), torch.arange(size)
    add(PLAIN, lambda: take_step(plain, private_loss(plain.module, examples, rows, task=task)))
    for way in (Way.OPACUS, Way.MAPPED, *([Way.CLOSED_FORM] if model == "mlp" else [])):
        add(way, private(way))
    add("chosen", private(None))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    read = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    samples: dict[str, object] = {}
    for model in read.models.split(","):
        steps = 20 if model == "mlp" else 2
        with contextlib.ExitStack() as held, warnings.catch_warnings():
            calls = sides(model, read.batch, steps=steps, held=held)
            taken = harness.interleave_calls(calls, repeats=read.repeats, warm_ups=2)
        wall = {name: [one.wall / steps for one in each] for name, each in taken.items()}
        times = {name: pair(harness.ratios(each, wall[PLAIN])) for name, each in wall.items()}
        size = sum(parameter.numel() for parameter in module_of(model).parameters())
        rows.append(
            [
                model,
                f"{size:,}",
                figure(1000 * harness.least_and_median(wall[PLAIN])["median"]),
                *(times.get(way, "-") for way in (Way.OPACUS, Way.MAPPED, Way.CLOSED_FORM)),
                times["chosen"],
                pair(harness.ratios(wall[Way.OPACUS], wall["chosen"])),
            ]
        )
        samples[model] = {name: [asdict(one) for one in each] for name, each in taken.items()}
    columns = ("model", "parameters", f"{PLAIN}, ms", "Opacus", "mapped", "closed form")
    harness.save(
        "dp_step",
        settings={"batch": read.batch, "repeats": read.repeats, "text positions": LENGTH},
        samples=samples,
        tables={"dp_step": Table(columns=(*columns, "fedkd", "Opacus / fedkd"), rows=rows)},
        packages={"all": harness.versions(("fedkd", "torch", "opacus"))},
        out=read.out,
    )


if __name__ == "__main__":
    main()
