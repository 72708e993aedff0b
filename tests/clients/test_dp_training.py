"""DP-SGD touches private examples as it is accounted for, and distillation stays outside it.

Each of the sharp bits of Opacus that the design lists is held by a test here, in
``tests/statistical/test_dp_noise.py`` (1, 10) or in ``tests/golden`` (3: the accountants agree).
"""

from __future__ import annotations

import ast
import copy
import inspect
from dataclasses import dataclass, field, replace

import pytest
import torch
from fedkd_clients import clipping, dp_training, opacus_clipping
from fedkd_clients.dp_training import (
    PrivateGradients,
    Streams,
    check_layers,
    dp_train_round,
    poisson_batches,
)
from fedkd_clients.learner import FleetLearner
from fedkd_clients.store import FileStore, MemoryStore
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.errors import ConfigError
from fedkd.models.base import initialized, models
from fedkd.privacy.events import SampledGaussian, Uncounted
from fedkd.privacy.releases import training_event
from fedkd.privacy.settings import Privacy
from fedkd.rng import borrowed
from fedkd.scenario import Scenario
from fedkd.tasks import Classification
from fedkd.training.jobs import train_round
from fedkd.training.recipe import OptimizerName, Order, Training
from fedkd.training.steps import Examples, Lesson, Student, distil_pass, make_optimizer
from fedkd.types import Consensus, ProxySet, ProxySource, Space

CPU = torch.device("cpu")
TASK = Classification(10)
IMAGE = (1, 8, 8)
IMAGE_MODELS = [name for name in models.names() if not models.get(name).tokens]
every_model = pytest.mark.parametrize("model", IMAGE_MODELS)


@dataclass(frozen=True)
class Steep(Distiller):
    """A distiller whose gradient is far longer than any clip norm; it counts its batches."""

    rows: list[int] = field(default_factory=list)
    space = Space.LOGITS

    @property
    def teacher_temperature(self) -> float:
        return 1.0

    def loss(self, student_logits: Tensor, teacher_scores: Tensor) -> Tensor:
        self.rows.append(len(student_logits))
        return 1000 * (student_logits - teacher_scores).square().sum(dim=1)


def _scenario(*, training: Training | None = None, **privacy) -> Scenario:
    settings = {"noise_multiplier": 0.0, "clip_norm": 1.0, "sampling_probability": 0.1, **privacy}
    # Only ``training`` and ``privacy`` are read, so DP-SGD's own preconditions need not hold.
    return Scenario(training=training or Training(), privacy=Privacy(**settings))


def _streams(seed: int = 0) -> Streams:
    names = ("sampling", "noise", "module", "order")
    return Streams(**{n: torch.Generator().manual_seed(10 * seed + k) for k, n in enumerate(names)})


def _module(model: str = "mlp") -> nn.Module:
    rng = torch.Generator().manual_seed(5)
    module = initialized(models.get(model)(), IMAGE, TASK.n_classes, rng=rng)
    return module.to(memory_format=torch.channels_last)


def _dropping() -> nn.Module:
    with borrowed(torch.Generator()):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))


def _student(module: nn.Module, training: Training) -> Student:
    return Student(module=module, optimizer=make_optimizer(module, training))


def _examples(n: int, *, dtype: torch.dtype = torch.uint8) -> Examples:
    rng = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 256, (n, *IMAGE), generator=rng, dtype=torch.uint8)
    labels = torch.randint(0, 10, (n,), generator=rng)
    return Examples(
        inputs=inputs if dtype == torch.uint8 else inputs.to(dtype) / 255, labels=labels
    )


def _lesson(n: int, *, dtype: torch.dtype = torch.uint8, distiller: Distiller | None = None):
    rng = torch.Generator().manual_seed(2)
    inputs = _examples(n + 7, dtype=dtype).inputs[7:]
    scores = torch.randn(n, 10, generator=rng, dtype=torch.float64).softmax(dim=1)
    if dtype == torch.uint8:
        scores = scores.float()
    return Lesson(inputs=inputs, scores=scores, distiller=distiller or KL())


def _run(student: Student, private: Examples, lesson: Lesson | None, scenario: Scenario, seed=0):
    return dp_train_round(
        student, private, lesson, scenario=scenario, task=TASK, streams=_streams(seed)
    )


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def _update(private: Examples, lesson: Lesson | None, scenario: Scenario, *, seed: int = 0):
    """Return what one round adds to the parameters of a fresh small network."""
    student = _student(_module(), scenario.training)
    before = _flat(student.module)
    _run(student, private, lesson, scenario, seed)
    return _flat(student.module) - before


SGD = Training(optimizer=OptimizerName.SGD, learning_rate=0.1, batch_size=16)
ONE_STEP = {"sampling_probability": 1.0}


# Clipping and adding up (7: Opacus' ghost clipping is not used; test_clipping.py has the ways).


@every_model
@pytest.mark.parametrize("lesson", [None, Order.INTERLEAVED, Order.SEQUENTIAL])
@pytest.mark.parametrize("optimizer", OptimizerName)
def test_without_noise_clipping_or_sampling_it_is_plain_training(model, lesson, optimizer):
    n = 24
    training = Training(
        optimizer=optimizer, batch_size=n, local_epochs=2, order=lesson or Order.INTERLEAVED
    )
    private, scenario = (
        _examples(n, dtype=torch.float64),
        _scenario(training=training, clip_norm=1e9, sampling_probability=1.0),
    )
    taught = None if lesson is None else _lesson(n, dtype=torch.float64)
    plain, ours = (_student(_module(model).double(), training) for _ in range(2))
    for seed in range(2):
        rng = torch.Generator().manual_seed(seed)
        train_round(plain, private, taught, recipe=training, task=TASK, rng=rng)
        _run(ours, private, taught, scenario, seed)
    torch.testing.assert_close(_flat(ours.module), _flat(plain.module), rtol=1e-7, atol=1e-9)


@every_model
def test_each_example_is_clipped_by_itself_and_the_divisor_is_public(model):
    # 2: neither the 5 examples nor the rate sets the divisor; it is training.batch_size.
    scenario = _scenario(training=SGD, clip_norm=0.05, **ONE_STEP)
    private, module = _examples(5), _module(model)
    total = torch.zeros_like(_flat(module))
    for n in range(5):
        module.zero_grad()
        logits = module(private.inputs[n : n + 1].float() / 255)
        TASK.loss(logits, private.labels[n : n + 1]).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        assert gradient.norm() > 0.05
        total += 0.05 * gradient / gradient.norm()
    module.zero_grad()
    student, before = _student(module, SGD), _flat(module)
    _run(student, private, None, scenario)
    torch.testing.assert_close(_flat(module) - before, -0.1 * total / 16, rtol=2e-4, atol=2e-7)


def test_one_example_moves_the_update_by_no_more_than_its_share():
    scenario = _scenario(training=SGD, clip_norm=0.3, noise_multiplier=1.0, **ONE_STEP)
    private = _examples(30)
    for n in range(4):
        fewer = Examples(
            inputs=torch.cat([private.inputs[:n], private.inputs[n + 1 :]]),
            labels=torch.cat([private.labels[:n], private.labels[n + 1 :]]),
        )
        moved = _update(private, None, scenario) - _update(fewer, None, scenario)
        assert 0 < moved.norm() <= 0.1 * 0.3 / 16 * 1.001


def test_large_batches_are_worked_off_in_parts_without_a_difference(monkeypatch):
    scenario = _scenario(training=SGD, clip_norm=0.2, noise_multiplier=0.5, **ONE_STEP)
    whole = _update(_examples(50), None, scenario)
    monkeypatch.setattr(dp_training, "PART", 7)
    torch.testing.assert_close(_update(_examples(50), None, scenario), whole, rtol=1e-4, atol=1e-7)


def test_an_example_that_is_not_finite_counts_as_nothing():
    scenario = _scenario(training=SGD, noise_multiplier=0.5, **ONE_STEP)
    private = _examples(6, dtype=torch.float32)
    broken = private.inputs.clone()
    broken[3] = torch.inf
    rest = torch.tensor([0, 1, 2, 4, 5])
    found = _update(Examples(inputs=broken, labels=private.labels), None, scenario)
    without = Examples(inputs=private.inputs[rest], labels=private.labels[rest])
    torch.testing.assert_close(found, _update(without, None, scenario))


# What is counted (2, 3, 4, 11).


@pytest.mark.parametrize("n", [0, 1, 3, 500])
@pytest.mark.parametrize(("rate", "epochs", "steps"), [(0.1, 1, 10), (0.3, 2, 6), (1.0, 3, 3)])
def test_the_event_is_public_and_says_what_was_done(n, rate, epochs, steps):
    # 100 examples in batches of 64 would be a rate of 0.5 for Opacus; n must not matter at all.
    training = replace(SGD, local_epochs=epochs, batch_size=64)
    scenario = _scenario(
        training=training, dp_sgd=False, noise_multiplier=1.5, sampling_probability=rate
    )
    taken = []
    student = _student(_module(), training)
    step = student.optimizer.step
    student.optimizer.step = lambda: (taken.append(1), step())[1]
    event = _run(student, _examples(n), None, scenario)
    assert event == SampledGaussian(rate, 1.5, steps)
    assert len(taken) == steps


def test_steps_that_differ_in_noise_are_not_summed_up():
    scenario = _scenario(training=SGD, noise_multiplier=1.0)
    gradients = PrivateGradients(
        _student(_module(), SGD), _examples(9), scenario=scenario, task=TASK, streams=_streams()
    )
    with gradients.attached(2):
        gradients.compute()
        gradients._noise_multiplier = 0.5
        gradients.compute()
    with pytest.raises(RuntimeError, match="differ in noise"):
        gradients.event()


def test_without_noise_nothing_bounds_it_and_without_a_number_nothing_starts():
    student = _student(_module(), SGD)
    assert _run(student, _examples(9), None, _scenario(training=SGD)) == Uncounted(
        "DP-SGD without noise"
    )
    before = _flat(student.module)
    with pytest.raises(ConfigError, match=r"privacy\.noise_multiplier: None .*target_epsilon"):
        _run(student, _examples(9), None, _scenario(training=SGD, noise_multiplier=None))
    assert torch.equal(_flat(student.module), before)


def test_the_privacy_engine_and_loaders_that_guess_the_rate_are_not_used():
    # 1, 4, 5: their rates follow the number of examples, and their budgets forget earlier rounds.
    names: set[str] = set()
    for module in (dp_training, clipping, opacus_clipping):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            names |= {node.attr} if isinstance(node, ast.Attribute) else set()
            names |= {node.id} if isinstance(node, ast.Name) else set()
    assert {"poisson_batches", "DPOptimizer", "GradSampleHooks"} <= names
    assert not {name for name in names if "PrivacyEngine" in name or "make_private" in name}
    assert not {name for name in names if "DataLoader" in name or "Ghost" in name}


@pytest.mark.parametrize("n", [0, 1, 17])
def test_batches_are_those_of_opacus_sampler(n):
    ours, theirs = (torch.Generator().manual_seed(3) for _ in range(2))
    sampler = UniformWithReplacementSampler(
        num_samples=max(1, n), sample_rate=0.3, generator=theirs, steps=40
    )
    drawn = [batch.tolist() for batch in poisson_batches(n, rate=0.3, n_steps=40, rng=ours)]
    assert drawn == [[row for row in batch if row < n] for batch in sampler]
    assert torch.equal(ours.get_state(), theirs.get_state())


# Distillation stays outside (6).


def test_a_lesson_is_neither_clipped_nor_noised_nor_counted():
    scenario = _scenario(training=SGD, clip_norm=1e-3, noise_multiplier=2.0, **ONE_STEP)
    private, lesson = _examples(12), _lesson(16, distiller=Steep())
    alone = _student(_module(), SGD)
    before = _flat(alone.module)
    distil_pass(alone, lesson, recipe=SGD, rng=torch.Generator().manual_seed(0))
    taught = _flat(alone.module) - before
    assert taught.norm() > 100 * 0.1 * 1e-3  # far beyond what clipping would leave of it
    found = _update(private, lesson, scenario)
    expected = taught + SGD.ce_weight * _update(private, None, scenario)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(taught.abs().max()))
    student = _student(_module(), SGD)
    assert _run(student, private, lesson, scenario) == SampledGaussian(1.0, 2.0, 1)


def test_no_gradient_of_a_proxy_row_is_kept_apart():
    seen = []

    @dataclass(frozen=True)
    class Looking(Steep):
        def loss(self, student_logits, teacher_scores):
            kept = [layer for layer in student.module.modules() if getattr(layer, "activations", 0)]
            seen.append(len(kept))
            student_logits.register_hook(lambda _: sizes.append(_sizes(student.module)))
            return super().loss(student_logits, teacher_scores)

    def _sizes(module):
        return {len(p.grad_sample) for p in module.parameters() if p.grad_sample is not None}

    sizes = []
    student = _student(_dropping(), SGD)  # of the ways to clip, only Opacus' keeps things apart
    scenario = _scenario(training=SGD, noise_multiplier=1.0, **ONE_STEP)
    with borrowed(torch.Generator()):
        _run(student, _examples(12), _lesson(16, distiller=Looking()), scenario)
    assert seen == [0]
    assert sizes == [set()]


@pytest.mark.parametrize(
    ("lesson_rows", "rate", "steps", "private_steps"),
    [(70, 0.5, 5, 2), (70, 0.1, 10, 10), (16, 0.25, 4, 4)],
)
def test_interleaved_steps_see_the_whole_lesson_and_take_the_paid_private_steps(
    lesson_rows, rate, steps, private_steps
):
    distiller = Steep()
    scenario = _scenario(training=SGD, noise_multiplier=1.0, sampling_probability=rate)
    event = _run(
        _student(_module(), SGD), _examples(20), _lesson(lesson_rows, distiller=distiller), scenario
    )
    assert event == SampledGaussian(rate, 1.0, private_steps)
    assert len(distiller.rows) == steps
    assert sum(distiller.rows) >= lesson_rows


def test_in_sequence_the_lesson_comes_first_and_once():
    distiller, training = Steep(), replace(SGD, order=Order.SEQUENTIAL)
    scenario = _scenario(training=training, noise_multiplier=1.0, sampling_probability=0.5)
    student = _student(_module(), training)
    event = _run(student, _examples(20), _lesson(70, distiller=distiller), scenario)
    assert event == SampledGaussian(0.5, 1.0, 2)
    assert distiller.rows == [16, 16, 16, 16, 6]


def test_proxy_batches_draw_the_same_dropout_whatever_the_private_data_is():
    module = _dropping()
    scenario = _scenario(training=SGD, noise_multiplier=1.0)
    after = []
    for n in (0, 3, 200):
        rng = torch.Generator().manual_seed(3)
        with borrowed(rng):
            _run(_student(copy.deepcopy(module), SGD), _examples(n), _lesson(40), scenario)
        after.append(rng.get_state())
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[0], after[2])


# Empty and tiny (8).


def test_an_empty_batch_and_an_empty_client_take_the_same_noisy_step():
    never = _scenario(training=SGD, noise_multiplier=1.0, sampling_probability=1e-9)
    module = _module()
    steps = PrivateGradients(
        _student(module, SGD), _examples(4), scenario=never, task=TASK, streams=_streams()
    )
    with steps.attached(1):
        steps.compute()
        empty = torch.cat([p.grad.flatten() for p in module.parameters()])
    nobody = _update(_examples(0), None, _scenario(training=SGD, noise_multiplier=1.0, **ONE_STEP))
    assert empty.norm() > 0
    torch.testing.assert_close(-0.1 * empty, nobody, rtol=1e-3, atol=1e-6)


@every_model
@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_clients_train_whatever_the_model(model, n):
    scenario = _scenario(training=SGD, noise_multiplier=1.0, sampling_probability=0.3)
    student = _student(_module(model), SGD)
    before = _flat(student.module)
    event = _run(student, _examples(n), _lesson(20), scenario)
    assert event == SampledGaussian(0.3, 1.0, 3)
    assert bool(torch.isfinite(_flat(student.module)).all())
    assert not torch.equal(_flat(student.module), before)


# Nothing stays behind (5), and what cannot be bounded is refused (9).


def _marks(module: nn.Module):
    return [sorted(vars(one)) for one in (*module.modules(), *module.parameters())]


@pytest.mark.parametrize("model", [*IMAGE_MODELS, ""])
def test_the_module_comes_out_as_it_went_in(model):
    student = _student(_module(model) if model else _dropping(), SGD)
    keys, marks = list(student.module.state_dict()), _marks(student.module)
    scenario = _scenario(training=SGD, noise_multiplier=1.0)
    for seed in range(2):
        with borrowed(torch.Generator()):
            _run(student, _examples(20), _lesson(20), scenario, seed)
        assert list(student.module.state_dict()) == keys
        assert _marks(student.module) == marks
        assert all(not m._forward_hooks and not m._backward_hooks for m in student.module.modules())
        assert all(p.grad is None for p in student.module.parameters())
    twin = copy.deepcopy(student.module)
    assert torch.equal(_flat(twin), _flat(student.module))


@pytest.mark.parametrize("build", [_module, _dropping])
def test_it_comes_out_clean_after_a_failure_as_well(build):
    @dataclass(frozen=True)
    class Failing(Steep):
        def loss(self, student_logits, teacher_scores):
            raise ArithmeticError

    student = _student(build(), SGD)
    marks, scenario = _marks(student.module), _scenario(training=SGD, noise_multiplier=1.0)
    with borrowed(torch.Generator()), pytest.raises(ArithmeticError):
        _run(student, _examples(20), _lesson(20, distiller=Failing()), scenario)
    assert _marks(student.module) == marks
    _run(student, _examples(20), None, scenario)


@pytest.mark.parametrize(
    "kind",
    [
        lambda: nn.BatchNorm2d(4),
        lambda: nn.BatchNorm2d(4, affine=False),
        lambda: nn.InstanceNorm2d(4, track_running_stats=True),
        lambda: nn.LSTM(4, 4),
    ],
)
def test_layers_in_which_examples_meet_or_leave_traces_are_refused_by_name(kind):
    with borrowed(torch.Generator()):
        layer = kind()
        module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), layer))
    with pytest.raises(ConfigError) as error:
        check_layers(module)
    for word in (f"'1.1' is a {type(layer).__name__}", "torch.nn.GroupNorm", "dp_sgd=false"):
        assert word in str(error.value)
    student = _student(module, SGD)
    with pytest.raises(ConfigError, match=r"'1\.1'"):
        _run(student, _examples(9), None, _scenario(training=SGD, noise_multiplier=1.0))


def test_a_buffer_of_ones_own_is_refused_and_shipped_models_are_not():
    with borrowed(torch.Generator()):
        module = nn.Linear(3, 3)
    module.register_buffer("seen", torch.zeros(3))
    with pytest.raises(ConfigError, match="has buffers"):
        check_layers(module)
    assert all(issubclass(kind, dp_training.ASKED_ABOUT) for kind in ModuleValidator.VALIDATORS)
    for model in IMAGE_MODELS:
        check_layers(_module(model))


# The learner.


def _learner(tiny, *overrides: str, store=None) -> FleetLearner:
    scenario = tiny(
        "method=fedmd",
        "proxy={name: external, size: 40}",
        "privacy.dp_sgd=true",
        "privacy.noise_multiplier=1.0",
        *overrides,
    )
    learner = FleetLearner(scenario, store or MemoryStore(), device=CPU)
    learner.streams.round = 1
    proxy = ProxySet(
        inputs=_examples(40).inputs, ids=torch.arange(40), owner=None, source=ProxySource.EXTERNAL
    )
    for client in range(scenario.clients):
        learner.state(client).proxy = proxy
    return learner


TEACHER = Consensus(
    rows=torch.arange(40),
    scores=_lesson(40).scores,
    space=Space.PROBS,
    temperature=3.0,
    keepers=None,
)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_learner_tells_each_round_once_and_it_is_what_was_planned(tiny, noise):
    learner = _learner(tiny, f"privacy.noise_multiplier={noise}", "training.local_epochs=2")
    for n, teacher in ((1, None), (2, TEACHER)):
        learner.streams.round = n
        learner.fit([0, 1], teacher, KL())
        assert learner.take_events(0) == [training_event(learner._scenario)]
        assert learner.take_events(0) == []
    assert learner.take_events(1) == [training_event(learner._scenario)] * 2
    assert learner.take_events(2) == []


def test_plain_training_tells_nothing_of_dp_sgd(tiny):
    learner = FleetLearner(tiny(), MemoryStore(), device=CPU)
    learner.fit([0], None, None)
    assert learner.take_events(0) == []


@pytest.mark.parametrize("private", [True, False])
def test_parameters_tell_no_number_of_examples(tiny, private):
    learner = _learner(tiny, f"privacy.dp_sgd={private}", "partition=dirichlet")
    weights = [update.weight for update in learner.parameters([0, 1, 2])]
    assert (weights == [1.0, 1.0, 1.0]) == private


def test_the_filter_is_told_once_and_draws_from_the_secret_stream(tiny):
    chosen = "method={name: edgefd, filter: {name: dp_centroids, noise_multiplier: 20.0}}"
    found = []
    for seed in (1, 1, 2):
        learner = _learner(tiny, chosen, f"seeds.noise={seed}")
        filter_ = learner._scenario.method.filter
        found.append(learner.weigh([0], filter_)[0])
        assert learner.take_events(0) == [filter_.event()]
        learner.weigh([0], filter_)
        assert learner.take_events(0) == []
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_noise_repeats_with_its_seed_alone_and_never_when_it_is_secret(tiny):
    def trained(seed, client: int = 0, n: int = 1) -> Tensor:
        learner = _learner(tiny, f"seeds.noise={seed}")
        learner.streams.round = n
        before = _flat(learner.packing(client).student(learner.state(client).row).module)
        learner.fit([client], None, None)
        return _flat(learner.packing(client).student(learner.state(client).row).module) - before

    assert torch.equal(trained(3), trained(3))
    for other in (trained(4), trained(3, client=1), trained(3, n=2), trained("secret")):
        assert abs(torch.corrcoef(torch.stack([trained(3), other]))[0, 1]) < 0.5
    assert not torch.equal(trained("secret"), trained("secret"))


def test_the_optimiser_goes_on_where_it_was_also_after_a_restart(tiny, tmp_path):
    steps = []
    for n in (1, 2, 3):
        learner = _learner(tiny, store=FileStore(tmp_path))
        learner.streams.round = n
        learner.fit([0], TEACHER, KL())
        learner.keep(0)
        (slot, *_) = (
            learner.packing(0)
            .student(learner.state(0).row)
            .optimizer.state_dict()["state"]
            .values()
        )
        steps.append(int(slot["step"]))
    assert steps == [10, 20, 30]
