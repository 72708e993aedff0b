"""A round of training takes the steps its recipe says, on the batches its stream orders."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from fedkd.distillers.base import Distiller
from fedkd.distillers.kl import KL
from fedkd.tasks import Classification, NextToken, Task
from fedkd.training.jobs import Job, train_round
from fedkd.training.recipe import OptimizerName, Order, Training
from fedkd.training.steps import (
    Examples,
    Lesson,
    Student,
    batches,
    distil_pass,
    figures,
    lesson_loss,
    lesson_on,
    make_optimizer,
    predict,
    predict_rows,
)
from fedkd.types import Consensus, Space

TASK = Classification(3)
RECIPE = Training(batch_size=4, learning_rate=0.05)


@dataclass
class Spy(Distiller):
    """A distiller that counts its calls and the rows it was asked about."""

    rows: list[int] = field(default_factory=list)
    space = Space.LOGITS

    @property
    def teacher_temperature(self) -> float:
        return 1.0

    def loss(self, student_logits: Tensor, teacher_scores: Tensor) -> Tensor:
        self.rows.append(len(student_logits))
        return (student_logits - teacher_scores).square().mean(dim=1)


def _student(recipe: Training = RECIPE) -> Student:
    module = nn.Linear(5, 3)
    with torch.no_grad():
        for n, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + n)
    return Student(module=module, optimizer=make_optimizer(module, recipe))


def _examples(n: int) -> Examples:
    inputs = torch.sin(torch.arange(5.0 * n)).view(n, 5)
    return Examples(inputs=inputs, labels=torch.arange(n) % 3)


def _lesson(n: int, distiller: Spy) -> Lesson:
    inputs = torch.cos(torch.arange(5.0 * n)).view(n, 5)
    return Lesson(inputs=inputs, scores=torch.zeros(n, 3), distiller=distiller)


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _steps(student: Student) -> int:
    states = list(student.optimizer.state.values())
    return int(states[0]["step"]) if states else 0


@pytest.mark.parametrize(
    ("n_private", "n_lesson", "order", "epochs", "steps", "asked"),
    [
        (10, 0, Order.INTERLEAVED, 2, 6, 0),
        (10, 20, Order.INTERLEAVED, 1, 5, 5),
        (20, 6, Order.INTERLEAVED, 1, 5, 5),
        (8, 6, Order.INTERLEAVED, 3, 6, 6),
        (10, 20, Order.SEQUENTIAL, 2, 5 + 6, 5),
        (0, 10, Order.INTERLEAVED, 1, 3, 3),
        (0, 0, Order.INTERLEAVED, 1, 0, 0),
    ],
)
def test_a_round_takes_the_steps_of_its_recipe(n_private, n_lesson, order, epochs, steps, asked):
    student, spy = _student(), Spy()
    recipe = replace(RECIPE, order=order, local_epochs=epochs)
    lesson = _lesson(n_lesson, spy) if n_lesson else None
    train_round(student, _examples(n_private), lesson, recipe=recipe, task=TASK, rng=_rng())
    assert _steps(student) == steps
    assert len(spy.rows) == asked


def test_epochs_are_drawn_when_they_are_first_needed_and_each_is_a_permutation():
    recipe = replace(RECIPE, order=Order.INTERLEAVED, batch_size=4)
    lesson = _lesson(10, Spy())
    job = Job(private=_examples(5), lesson=lesson, recipe=recipe, task=TASK, order=_rng())
    own, shared = zip(*job.schedule(), strict=True)
    rng = _rng()
    first, whole = torch.randperm(5, generator=rng), torch.randperm(10, generator=rng)
    second = torch.randperm(5, generator=rng)
    assert torch.equal(torch.cat(own), torch.cat([first, second])[:9])
    assert [len(batch) for batch in own] == [4, 1, 4]
    assert torch.equal(torch.cat(shared), whole)


def test_an_interleaved_step_is_the_gradient_of_the_weighted_sum():
    recipe = replace(RECIPE, optimizer=OptimizerName.SGD, batch_size=4, ce_weight=0.5)
    private, lesson = _examples(4), _lesson(4, Spy())
    student, expected = _student(recipe), _student(recipe)
    train_round(student, private, lesson, recipe=recipe, task=TASK, rng=_rng())
    own = TASK.loss(expected.module(private.inputs), private.labels).mean()
    shared = lesson.distiller.loss(expected.module(lesson.inputs), lesson.scores).mean()
    (0.5 * own + shared).backward()
    for p in expected.module.parameters():
        p.data -= recipe.learning_rate * p.grad
    for got, wanted in zip(student.module.parameters(), expected.module.parameters(), strict=True):
        assert torch.allclose(got, wanted, atol=1e-6)


def test_a_distillation_pass_sees_every_row_once():
    spy = Spy()
    distil_pass(_student(), _lesson(10, spy), recipe=RECIPE, rng=_rng())
    assert spy.rows == [4, 4, 2]


def test_rows_are_learnt_at_the_temperatures_they_were_told():
    recipe = replace(RECIPE, optimizer=OptimizerName.SGD, batch_size=4)
    teacher, told = torch.eye(3)[[0, 1, 2, 0]], torch.tensor([1.0, 3.0, 3.0, 8.0])
    lesson = replace(_lesson(4, Spy()), scores=teacher, distiller=KL(temperature=3.0))
    student, expected, agreed = (_student(recipe) for _ in range(3))
    distil_pass(student, replace(lesson, row_temperatures=told), recipe=recipe, rng=_rng())
    distil_pass(agreed, lesson, recipe=recipe, rng=_rng())
    logits = expected.module(lesson.inputs)
    losses = [
        KL(temperature=float(t)).loss(logits[i, None], teacher[i, None]) for i, t in enumerate(told)
    ]
    torch.cat(losses).mean().backward()
    for p in expected.module.parameters():
        p.data -= recipe.learning_rate * p.grad
    pairs = zip(student.module.parameters(), expected.module.parameters(), strict=True)
    assert all(torch.allclose(got, wanted, atol=1e-6) for got, wanted in pairs)
    pairs = zip(student.module.parameters(), agreed.module.parameters(), strict=True)
    assert not all(torch.allclose(got, other, atol=1e-3) for got, other in pairs)


def test_batches_are_a_permutation_of_the_rows():
    parts = batches(10, 4, rng=_rng())
    assert [len(part) for part in parts] == [4, 4, 2]
    assert sorted(torch.cat(parts).tolist()) == list(range(10))


def test_prediction_in_parts_equals_prediction_at_once():
    student = _student()
    inputs = _examples(1100).inputs
    assert torch.allclose(predict(student.module, inputs), student.module(inputs), atol=1e-6)


def test_accuracy_counts_right_answers_and_there_is_none_of_no_examples():
    student, examples = _student(), _examples(7)
    right = (student.module(examples.inputs).argmax(1) == examples.labels).sum().item()
    assert figures(student.module, examples, task=TASK)["accuracy"] == pytest.approx(right / 7)
    assert figures(student.module, _examples(0), task=TASK) == {}


SEQUENCES = NextToken(5, 4)


class _Bigram(nn.Module):
    """Logits for the next of 5 tokens, from the last one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 5, generator=_rng()))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def test_rows_of_sequences_are_positions_and_only_sequences_asked_for_are_read():
    module = _Bigram()
    inputs = torch.randint(5, (6, 4), generator=_rng(), dtype=torch.int16)
    rows = torch.tensor([1, 2, 9, 23])
    found = predict_rows(module, inputs, rows, rows_per_input=4)
    whole = module(inputs.long()).reshape(-1, 5)
    assert torch.equal(found, whole[rows])


def test_a_lesson_on_some_positions_has_the_mean_loss_of_exactly_those():
    module = _Bigram()
    inputs = torch.randint(5, (6, 4), generator=_rng(), dtype=torch.int16)
    rows = torch.tensor([1, 2, 9, 23])
    scores = torch.softmax(torch.randn(4, 5, generator=_rng()), dim=1)
    consensus = Consensus(
        rows=rows, scores=scores, space=Space.PROBS, temperature=2.0, keepers=None
    )
    lesson = lesson_on(consensus, inputs, distiller=KL(temperature=2), rows_per_input=4)
    assert len(lesson) == 3
    loss = lesson_loss(module, lesson, torch.arange(3)).detach()
    expected = KL(temperature=2).loss(module(inputs.long()).reshape(-1, 5)[rows], scores)
    assert float(loss) == pytest.approx(float(expected.detach().mean()), rel=1e-6)


def test_bits_per_character_are_the_mean_loss_in_bits():
    module = _Bigram()
    tokens = torch.randint(5, (7, 5), generator=_rng())
    examples = Examples(inputs=tokens[:, :4].to(torch.int16), labels=tokens[:, 1:])
    probabilities = torch.softmax(module.table.detach(), dim=1)
    bits = -torch.log2(probabilities[tokens[:, :4], tokens[:, 1:]]).mean()
    found = figures(module, examples, task=SEQUENCES)
    assert found["bits_per_character"] == pytest.approx(float(bits), rel=1e-6)


@pytest.mark.parametrize("n_classes", [3, 10, 40])
@pytest.mark.parametrize("n_rows", [1, 6, 200])
def test_the_slopes_of_cross_entropy_are_those_that_autograd_finds(n_classes, n_rows):
    rng = _rng()
    logits = 5 * torch.randn(n_rows, n_classes, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, n_classes, (n_rows,), generator=rng)
    weights = torch.rand(n_rows, generator=rng, dtype=torch.float64)
    for task in (Classification(n_classes), NextToken(n_classes, 2)):
        expected = Task.slopes(task, logits, labels, weights)
        found = task.slopes(logits.clone(), labels, weights)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        assert found.shape == logits.shape
