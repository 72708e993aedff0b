"""DP-SGD on text: a sequence is one example, clipped whole, and a recurrent layer is refused."""

from __future__ import annotations

import pytest
import torch
from fedkd_clients.dp_training import Streams, check_layers, dp_train_round
from torch import Tensor, nn

from fedkd.distillers.kl import KL
from fedkd.errors import ConfigError
from fedkd.models.base import initialized, models
from fedkd.privacy.settings import Privacy
from fedkd.scenario import Scenario
from fedkd.tasks import NextToken, as_rows
from fedkd.training.jobs import train_round
from fedkd.training.recipe import OptimizerName, Training
from fedkd.training.steps import Examples, Lesson, Student, make_optimizer

TASK = NextToken(9, 12)
SGD = Training(optimizer=OptimizerName.SGD, learning_rate=0.1, batch_size=16)


def _module(model: str = "transformer_char") -> nn.Module:
    rng = torch.Generator().manual_seed(5)
    return initialized(models.get(model)(), (12,), TASK.n_classes, rng=rng)


def _examples(n: int) -> Examples:
    rng = torch.Generator().manual_seed(1)
    text = torch.randint(0, TASK.n_classes, (n, 13), generator=rng)
    return Examples(inputs=text[:, :-1].to(torch.int16), labels=text[:, 1:])


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def _student(module: nn.Module, training: Training) -> Student:
    return Student(module=module, optimizer=make_optimizer(module, training))


def _run(student: Student, private: Examples, lesson: Lesson | None, training: Training, **privacy):
    settings = {"noise_multiplier": 0.0, "sampling_probability": 1.0, **privacy}
    names = ("sampling", "noise", "module", "order")
    streams = {name: torch.Generator().manual_seed(k) for k, name in enumerate(names)}
    dp_train_round(
        student,
        private,
        lesson,
        scenario=Scenario(training=training, privacy=Privacy(**settings)),
        task=TASK,
        streams=Streams(**streams),
    )


def test_without_noise_or_clipping_it_is_plain_training():
    n, rng = 24, torch.Generator().manual_seed(2)
    training = Training(optimizer=OptimizerName.SGD, batch_size=n, local_epochs=2)
    private = _examples(n)
    scores = torch.randn(n, 12, 9, generator=rng, dtype=torch.float64).softmax(dim=2)
    lesson = Lesson(inputs=_examples(n).inputs, scores=scores, distiller=KL())
    plain, ours = (_student(_module().double(), training) for _ in range(2))
    train_round(plain, private, lesson, recipe=training, task=TASK, rng=rng)
    _run(ours, private, lesson, training, clip_norm=1e9)
    torch.testing.assert_close(_flat(ours.module), _flat(plain.module), rtol=1e-7, atol=1e-9)


def test_a_sequence_is_clipped_by_itself_and_as_a_whole():
    private, module = _examples(5), _module()
    total = torch.zeros_like(_flat(module))
    for n in range(5):
        module.zero_grad()
        logits = as_rows(module(private.inputs[n : n + 1].long()))
        TASK.loss(logits, private.labels[n : n + 1].flatten()).mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        assert gradient.norm() > 0.05
        total += 0.05 * gradient / gradient.norm()
    module.zero_grad()
    before = _flat(module)
    _run(_student(module, SGD), private, None, SGD, clip_norm=0.05)
    torch.testing.assert_close(_flat(module) - before, -0.1 * total / 16, rtol=2e-4, atol=2e-7)


def test_a_recurrent_layer_is_refused():
    with pytest.raises(ConfigError, match=r"models: the layer 'recurrent' is a GRU.*cannot train"):
        check_layers(_module("gru_char"))
    check_layers(_module("transformer_char"))
