"""All ways to clip give what Opacus gives, and none lets an example count for more than it may."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from fedkd_clients import clipping, dp_training
from fedkd_clients.clipping import ClippedSum, Clipping, Way, closed_form, fastest, mapped
from fedkd_clients.dp_training import Streams, dp_train_round
from fedkd_clients.opacus_clipping import _RowMajorHooks, hooked
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import Tensor, nn
from torch.nn import functional

from fedkd.distillers.kl import KL
from fedkd.models.base import initialized, models
from fedkd.privacy.events import SampledGaussian
from fedkd.privacy.settings import Privacy
from fedkd.rng import borrowed
from fedkd.scenario import Scenario
from fedkd.tasks import Classification, NextToken, Task, as_rows
from fedkd.training.recipe import OptimizerName, Training
from fedkd.training.steps import Examples, Lesson, Student, as_model_input, make_optimizer

IMAGE, TEXT = (1, 8, 8), (12,)
MODELS = [name for name in models.names() if name != "gru_char"]
TRAINING = Training(
    optimizer=OptimizerName.SGD, learning_rate=0.1, batch_size=16, momentum=0.9, local_epochs=2
)


def _task(model: str) -> Task:
    return NextToken(9, 12) if models.get(model).tokens else Classification(10)


def _module(model: str = "mlp") -> nn.Module:
    rng, shape = torch.Generator().manual_seed(5), TEXT if models.get(model).tokens else IMAGE
    module = initialized(models.get(model)(), shape, _task(model).n_classes, rng=rng)
    return module.to(memory_format=torch.channels_last)


def _examples(n: int, model: str = "mlp", dtype: torch.dtype = torch.float64) -> Examples:
    rng = torch.Generator().manual_seed(1)
    if models.get(model).tokens:
        text = torch.randint(0, 9, (n, 13), generator=rng)
        return Examples(inputs=text[:, :-1].to(torch.int16), labels=text[:, 1:])
    inputs = torch.rand(n, *IMAGE, generator=rng, dtype=torch.float64).to(dtype)
    return Examples(inputs=inputs, labels=torch.randint(0, 10, (n,), generator=rng))


def _clipping(module: nn.Module, *, clip_norm: float = 0.5, task: Task | None = None) -> Clipping:
    trained = [p for p in module.parameters() if p.requires_grad]
    task = task or Classification(10)
    return Clipping(module=module, parameters=trained, task=task, clip_norm=clip_norm)


@contextmanager
def _sums(way: Way, clipped: Clipping) -> Iterator[ClippedSum]:
    if way is Way.OPACUS:
        with hooked(clipped, torch.Generator()) as found:
            yield found
    else:
        yield partial(closed_form if way is Way.CLOSED_FORM else mapped, clipped)


def _sum(way: Way, clipped: Clipping, examples: Examples) -> list[Tensor]:
    with _sums(way, clipped) as clipped_sum:
        return clipped_sum(examples.inputs, examples.labels)


def _way(clipped: Clipping, examples: Examples) -> Way:
    return fastest(clipped, examples.inputs[:1], examples.labels[:1])


def _one_by_one(clipped: Clipping, examples: Examples) -> tuple[list[Tensor], Tensor]:
    """Return the clipped sums by plain autograd, an example at a time, and the norms."""
    sums, norms = [torch.zeros_like(p) for p in clipped.parameters], []
    for n in range(len(examples)):
        logits = as_rows(clipped.module(as_model_input(examples.inputs[n : n + 1])))
        loss = clipped.task.loss(logits, examples.labels[n : n + 1].flatten()).mean()
        gradients = torch.autograd.grad(loss, list(clipped.parameters))
        norm = torch.stack([g.norm() for g in gradients]).norm()
        norms.append(norm)
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient * (clipped.clip_norm / (norm + 1e-6)).clamp(max=1)
    return sums, torch.stack(norms)


def _close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# One sum.


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows", [torch.contiguous_format, torch.channels_last])
def test_every_way_gives_what_autograd_gives_for_each_example(model, rows):
    clipped = _clipping(_module(model).double(), task=_task(model))
    examples = _examples(12, model)
    if examples.inputs.dim() == 4:
        inputs = examples.inputs.contiguous(memory_format=rows)
        examples = Examples(inputs=inputs, labels=examples.labels)
    _, norms = _one_by_one(clipped, examples)
    clipped = replace(clipped, clip_norm=float(norms.median()))
    expected, _ = _one_by_one(clipped, examples)
    way = _way(clipped, examples)
    assert way is (Way.CLOSED_FORM if model == "mlp" else Way.MAPPED)
    for one in {way, Way.MAPPED, Way.OPACUS}:
        _close(_sum(one, clipped, examples), expected)


def _layers(*widths: int, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    with borrowed(torch.Generator().manual_seed(3)):
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


@pytest.mark.parametrize("widths", [(64, 10), (64, 20, 10), (64, 20, 30, 10)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["", "1.weight", "1.bias", "1."])
def test_perceptrons_of_any_depth_without_bias_or_partly_frozen(widths, bias, frozen):
    module, examples = _layers(*widths, bias=bias), _examples(9)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not frozen or not name.startswith(frozen))
    if not any(p.requires_grad for p in module.parameters()):
        return
    clipped = _clipping(module)
    assert _way(clipped, examples) is Way.CLOSED_FORM
    expected, norms = _one_by_one(clipped, examples)
    assert bool((norms > clipped.clip_norm).any())
    for way in Way:
        _close(_sum(way, clipped, examples), expected)


def test_weights_that_layers_share_are_one_parameter():
    module = _layers(64, 10, 10, 10)
    module[5].weight = module[3].weight
    clipped, examples = _clipping(module), _examples(9)
    assert len(clipped.parameters) == 5
    assert _way(clipped, examples) is Way.MAPPED
    expected, _ = _one_by_one(clipped, examples)
    _close(_sum(Way.MAPPED, clipped, examples), expected)


class Odd(nn.Sequential):
    """Not what it looks like."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def _hooked() -> nn.Module:
    module = _layers(64, 10)
    module[1].register_forward_hook(lambda *told: 2 * told[2])
    return module


OTHERS = {
    "a subclass": lambda: Odd(*_layers(64, 20, 10)),
    "a hook": _hooked,
    "a parametrisation": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 10))
    ).double(),
    "a flatten of another kind": lambda: nn.Sequential(
        nn.Flatten(2), *_layers(64, 20, 5)[1:], nn.Flatten(1), nn.Linear(5, 10)
    ).double(),
    "an activation of another kind": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)
    ).double(),
    "an activation at the end": lambda: nn.Sequential(*_layers(64, 20, 10), nn.ReLU()),
    "no activation": lambda: nn.Sequential(*_layers(64, 20), nn.Linear(20, 10).double()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_a_perceptron_is_mapped(name):
    with borrowed(torch.Generator().manual_seed(2)):
        clipped, examples = _clipping(OTHERS[name]()), _examples(9)
    assert _way(clipped, examples) is Way.MAPPED
    expected, _ = _one_by_one(clipped, examples)
    _close(_sum(Way.MAPPED, clipped, examples), expected)


def test_a_layer_that_is_called_twice_is_left_to_opacus():
    once = _layers(64, 10, 10)
    clipped, examples = _clipping(nn.Sequential(*once, nn.ReLU(), once[3])), _examples(9)
    assert len(clipped.parameters) == 4
    assert _way(clipped, examples) is Way.OPACUS
    expected, _ = _one_by_one(clipped, examples)
    _close(_sum(Way.OPACUS, clipped, examples), expected)


class Reading(nn.Linear):
    """It looks at a number, which no map over examples can do."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * (2 if float(inputs.detach().sum()) > 0 else 1)


class Drawing(nn.Linear):
    """It draws, and no attribute says so."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.dropout(super().forward(inputs), 0.5, training=self.training)


@pytest.mark.parametrize("layer", [nn.Dropout, Reading, Drawing])
def test_what_cannot_be_mapped_is_left_to_opacus(layer):
    with borrowed(torch.Generator().manual_seed(2)):
        last = nn.Dropout(0.5) if layer is nn.Dropout else layer(10, 10)
        module = nn.Sequential(*_layers(64, 10), last.double())
    before = torch.get_rng_state()
    assert _way(_clipping(module), _examples(9)) is Way.OPACUS
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_of_one_input_are_clipped_together():
    clipped = _clipping(_layers(64, 20, 10), task=Classification(10, rows_per_input=2))
    assert _way(clipped, _examples(9)) is not Way.CLOSED_FORM


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("held", [1, 300, 1 << 23])
def test_sums_are_those_of_their_parts(way, held, monkeypatch):
    monkeypatch.setattr(clipping, "HELD", held)
    clipped, examples = _clipping(_layers(64, 2, 10)), _examples(11)
    parts = [
        Examples(inputs=examples.inputs[c], labels=examples.labels[c])
        for c in (slice(0, 4), slice(4, 5), slice(5, 11))
    ]
    added = [sum(them) for them in zip(*(_sum(way, clipped, p) for p in parts), strict=True)]
    _close(_sum(way, clipped, examples), added)


# What may count for how much.


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_example_whose_gradient_is_not_finite_counts_as_nothing(way, bad):
    clipped, examples = _clipping(_layers(64, 20, 10)), _examples(6)
    rest = torch.tensor([0, 1, 2, 4, 5])
    others = Examples(inputs=examples.inputs[rest], labels=examples.labels[rest])
    broken = examples.inputs.clone()
    broken[3, 0, 2, 2] = bad
    found = _sum(way, clipped, Examples(inputs=broken, labels=examples.labels))
    _close(found, _sum(way, clipped, others))
    everybody = Examples(inputs=torch.full_like(broken, bad), labels=examples.labels)
    assert all(bool((total == 0).all()) for total in _sum(way, clipped, everybody))


class Broken(Classification):
    """A task whose loss has no finite slope for examples of class 0, in output 0 alone."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        broken = torch.where(labels == 0, torch.inf, 0.0).to(logits.dtype)
        return functional.cross_entropy(logits, labels, reduction="none") + logits[:, 0] * broken


@pytest.mark.parametrize("way", Way)
def test_an_example_of_which_only_a_part_is_not_finite_counts_as_nothing(way):
    module, examples = _layers(64, 10), _examples(6)
    nn.init.zeros_(module[1].weight)  # so that all logits are zero or what the bias is
    labels, rest = torch.tensor([1, 2, 0, 3, 4, 5]), torch.tensor([0, 1, 3, 4, 5])
    slope = torch.zeros(1, 10, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(Broken(10).loss(slope, labels[2:3]).sum(), [slope])
    assert slopes.isfinite().sum() == 9
    clipped = _clipping(module, task=Broken(10))
    found = _sum(way, clipped, Examples(inputs=examples.inputs, labels=labels))
    others = Examples(inputs=examples.inputs[rest], labels=labels[rest])
    _close(found, _one_by_one(clipped, others)[0])


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize(
    ("scale", "first", "second"),
    [
        *((scale, 1.0, 1.0) for scale in (1e-30, 1e-20, 1e-10, 1.0)),
        *((scale, 1.0, 1e-12) for scale in (1e10, 1e18, 1e25, 1e37)),
        (1e37, 1e-36, 1e-20),  # signals so small that what is left of them has few digits
    ],
)
@pytest.mark.parametrize("clip_norm", [1e-6, 1.0])
def test_no_example_counts_for_more_than_the_clip_norm_however_large_its_numbers(
    way, scale, first, second, clip_norm
):
    module, examples = _layers(64, 20, 10).float(), _examples(8, dtype=torch.float32)
    with torch.no_grad():
        module[1].weight.mul_(first)
        module[3].weight.mul_(second)
    examples = Examples(inputs=examples.inputs * scale, labels=examples.labels)
    for n in range(8):
        one = Examples(inputs=examples.inputs[n : n + 1], labels=examples.labels[n : n + 1])
        found = _sum(way, _clipping(module, clip_norm=clip_norm), one)
        norm = torch.cat([total.flatten().double() for total in found]).norm()
        assert float(norm) <= clip_norm * (1 + 1e-5)


# A whole round.


def _streams() -> Streams:
    names = ("sampling", "noise", "module", "order")
    return Streams(**{n: torch.Generator().manual_seed(k) for k, n in enumerate(names)})


def _scenario(clip_norm: float, rate: float) -> Scenario:
    privacy = Privacy(noise_multiplier=0.7, clip_norm=clip_norm, sampling_probability=rate)
    return Scenario(training=TRAINING, privacy=privacy)


def _lesson(model: str, n: int = 40) -> Lesson:
    rng, task = torch.Generator().manual_seed(2), _task(model)
    shape = (n, task.rows_per_input, task.n_classes) if task.rows_per_input > 1 else (n, 10)
    scores = torch.randn(*shape, generator=rng, dtype=torch.float64).softmax(dim=-1)
    return Lesson(inputs=_examples(n, model).inputs, scores=scores, distiller=KL())


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def _trained(
    model: str, private: Examples, lesson: Lesson | None, scenario: Scenario, dtype: torch.dtype
) -> Tensor:
    module = _module(model).to(dtype)
    student = Student(module=module, optimizer=make_optimizer(module, TRAINING))
    event = dp_train_round(
        student, private, lesson, scenario=scenario, task=_task(model), streams=_streams()
    )
    rate = scenario.privacy.sampling_probability
    assert event == SampledGaussian(rate, 0.7, 2 * scenario.privacy.steps_per_epoch())
    return _flat(module)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize(
    ("n", "rate", "part"), [(30, 0.5, 7), (30, 0.5, 128), (2, 0.1, 128), (0, 0.5, 128)]
)
def test_a_round_is_the_same_by_every_way(model, taught, n, rate, part, monkeypatch):
    monkeypatch.setattr(dp_training, "PART", part)
    scenario, lesson = _scenario(0.8, rate), _lesson(model) if taught else None
    private = _examples(n, model)
    ours = _trained(model, private, lesson, scenario, torch.float64)
    monkeypatch.setattr(dp_training, "fastest", lambda *_: Way.OPACUS)
    theirs = _trained(model, private, lesson, scenario, torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing", "ignore:grad and param do not")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n", [0, 2, 60])
def test_a_round_is_what_opacus_own_sampler_and_optimizer_do(model, n):
    # Opacus draws float32 noise, whatever the parameters are; so these are float32 too.
    scenario, private = _scenario(0.8, 0.1), _examples(n, model, torch.float32)
    ours = _trained(model, private, None, scenario, torch.float32)
    module, task, streams = _module(model), _task(model), _streams()
    optimizer = DPOptimizer(
        make_optimizer(module, TRAINING),
        noise_multiplier=0.7,
        max_grad_norm=0.8,
        expected_batch_size=TRAINING.batch_size,
        generator=streams.noise,
    )
    hooks = _RowMajorHooks(module, loss_reduction="sum")
    sampler = UniformWithReplacementSampler(
        num_samples=max(1, n), sample_rate=0.1, generator=streams.sampling, steps=20
    )
    for batch in sampler:
        rows = torch.tensor([row for row in batch if row < n], dtype=torch.int64)
        optimizer.zero_grad()
        if len(rows):
            logits = as_rows(module(as_model_input(private.inputs[rows])))
            losses = task.loss(logits, private.labels[rows].flatten())
            (losses.sum() / task.rows_per_input).backward()
        else:
            for parameter in optimizer.params:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        optimizer.step()
    hooks.cleanup()
    torch.testing.assert_close(ours, _flat(module), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_shipped_models_are_trained_without_opacus_being_imported():
    names = [name for name in MODELS if not models.get(name).tokens]
    code = (
        "import sys, torch\n"
        "from fedkd_clients import dp_training\n"
        "from fedkd_clients.clipping import Clipping, fastest\n"
        "from fedkd.models.base import initialized, models\n"
        "from fedkd.tasks import Classification\n"
        f"for name in {names}:\n"
        "    module = initialized(models.get(name)(), (1, 8, 8), 10, rng=torch.Generator())\n"
        "    dp_training.check_layers(module)\n"
        "    clipping = Clipping(module=module, parameters=list(module.parameters()),\n"
        "        task=Classification(10), clip_norm=1.0)\n"
        "    way = fastest(clipping, torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))\n"
        "    assert way != 'opacus', name\n"
        "assert 'opacus' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
