"""Private training: a client's examples reach its model through DP-SGD and nothing else.

A step clips the gradient of every example of a Poisson batch, adds them up, adds Gaussian noise
and divides by ``training.batch_size``. The number of steps, the sampling probability, the noise
and the divisor are public settings, so a client with no example takes the same steps as any other.
Distillation reads proxy rows and received scores only: its gradient is added after the noise, is
never clipped and costs nothing.

Batches and noise are those of Opacus 1.6, number for number, and so are clipped sums, up to
rounding (``clipping``). Its ``PrivacyEngine`` is not used: it derives the sampling rate and the
divisor from the (private) number of examples. Noise comes from PyTorch's generator; it is not
hardened against attacks on floating-point arithmetic.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from fedkd.errors import ConfigError
from fedkd.privacy.events import Event, SampledGaussian, Uncounted
from fedkd.scenario import Scenario
from fedkd.tasks import Task
from fedkd.training.recipe import Order
from fedkd.training.steps import (
    Examples,
    Lesson,
    Student,
    distil_pass,
    epochs,
    lesson_loss,
)
from fedkd_clients.clipping import ClippedSum, Clipping, Way, closed_form, fastest, mapped

PART = 128
"""Examples that are clipped at once; it bounds memory and changes nothing else."""

ASKED_ABOUT = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.RNNBase, nn.MultiheadAttention),
)
"""Layers that Opacus has an opinion about; it takes seconds to import, so only they need it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Streams:
    """Where a private round's chances come from; the first three must be secret in earnest.

    Attributes:
        sampling: of the Poisson batches.
        noise: of the Gaussian noise.
        module: of what the model itself draws on private batches (dropout). Shared with the
            proxy batches, it would tell them how many private examples were drawn before.
        order: of the lesson's batches; public.
    """

    sampling: torch.Generator
    noise: torch.Generator
    module: torch.Generator
    order: torch.Generator


def dp_train_round(
    student: Student,
    private: Examples,
    lesson: Lesson | None,
    *,
    scenario: Scenario,
    task: Task,
    streams: Streams,
) -> Event:
    """Train one client for one round, in ``train_round``'s place.

    Interleaved, there are as many steps as the larger of the private steps and the lesson's
    batches needs: the lesson starts over when it is through, and private steps are spread evenly,
    since a further one would have to be paid for.

    Args:
        student: changed in place; the optimiser's state stays with it.
        private: may be empty; the steps then add noise alone.
        lesson: None or an empty lesson means private training alone.
        scenario: gives ``training`` and ``privacy``, noise multiplier included.
        task: gives the loss of each private example.
        streams: where randomness comes from.

    Returns:
        What the steps that were really taken cost: their number, and the rate and noise that
        each one drew with. Without noise the event is uncounted.

    Raises:
        ConfigError: the noise is not known, or a layer lets examples meet.
    """
    check_layers(student.module)
    recipe = scenario.training
    n_steps = recipe.local_epochs * scenario.privacy.steps_per_epoch()
    student.module.train()
    if lesson is not None and len(lesson) and recipe.order is Order.SEQUENTIAL:
        distil_pass(student, lesson, recipe=recipe, rng=streams.order)
        lesson = None
    gradients = PrivateGradients(student, private, scenario=scenario, task=task, streams=streams)
    with gradients.attached(n_steps):
        if lesson is None or len(lesson) == 0:
            for _ in range(n_steps):
                gradients.compute()
                student.optimizer.step()
        else:
            _interleave(student, gradients, lesson, scenario=scenario, rng=streams.order)
    return gradients.event()


def check_layers(module: nn.Module) -> None:
    """Refuse layers in which the examples of a batch meet or leave traces.

    Raises:
        ConfigError: the layer, the reason and what to use instead.
    """
    for name, layer in module.named_modules():
        reason = ""
        if isinstance(layer, ASKED_ABOUT):
            from fedkd_clients.opacus_clipping import refusal

            reason = refusal(layer)
        if not reason and list(layer.buffers(recurse=False)):
            reason = "It has buffers, which can carry private statistics past the noise"
        if reason:
            raise ConfigError(
                f"models: the layer {name!r} is a {type(layer).__name__}, which DP-SGD cannot "
                f"train. {reason}. Use torch.nn.GroupNorm for a norm, opacus.layers for the rest, "
                "or privacy.dp_sgd=false"
            )


class PrivateGradients:
    """Puts the noisy gradient of one Poisson batch after another into ``p.grad``.

    ``way`` is how gradients are clipped; None takes the fastest, and all give the same.
    """

    def __init__(
        self,
        student: Student,
        private: Examples,
        *,
        scenario: Scenario,
        task: Task,
        streams: Streams,
        way: Way | None = None,
    ) -> None:
        privacy, groups = scenario.privacy, student.optimizer.param_groups
        if privacy.noise_multiplier is None:
            raise ConfigError(
                "privacy.noise_multiplier: None says nothing about the noise; set "
                "privacy.target_epsilon, from which it is worked out, or give a number"
            )
        self._private, self._streams = private, streams
        self._rate, self._noise_multiplier = privacy.sampling_probability, privacy.noise_multiplier
        self._divisor = scenario.training.batch_size
        self._clipping = Clipping(
            module=student.module,
            parameters=[p for group in groups for p in group["params"] if p.requires_grad],
            task=task,
            clip_norm=privacy.clip_norm,
        )
        self._pinned, self._taken = way, list[SampledGaussian]()

    @contextmanager
    def attached(self, n_steps: int) -> Generator[None]:
        """Get ready for ``n_steps`` batches; the module comes out as it went in."""
        self._batches = poisson_batches(
            len(self._private), rate=self._rate, n_steps=n_steps, rng=self._streams.sampling
        )
        try:
            with self._way() as self._clipped_sum:
                yield
        finally:
            for parameter in self._clipping.parameters:
                parameter.grad = None

    def compute(self) -> None:
        """Overwrite ``p.grad`` with the noisy gradient of the next batch, of whatever size."""
        rows = next(self._batches).to(self._private.labels.device)
        sums = [torch.zeros_like(p, requires_grad=False) for p in self._clipping.parameters]
        for part in rows.split(PART) if len(rows) else ():
            more = self._clipped_sum(self._private.inputs[part], self._private.labels[part])
            for total, clipped in zip(sums, more, strict=True):
                total += clipped
        self._add_noise(sums)

    def event(self) -> Event:
        """Return what was done: a sampled Gaussian for every time that noise was added."""
        first = self._taken[0]
        if any(step != first for step in self._taken):
            raise RuntimeError("the steps of one round differ in noise; nothing bounds them")
        if first.noise_multiplier == 0:
            return Uncounted("DP-SGD without noise")
        return replace(first, count=len(self._taken))

    def _add_noise(self, sums: list[Tensor]) -> None:
        """Set ``p.grad`` and note the step; noise is drawn on the host, equal on every device."""
        multiplier = self._noise_multiplier
        std = multiplier * self._clipping.clip_norm
        for parameter, total in zip(self._clipping.parameters, sums, strict=True):
            shape, rng = parameter.shape, self._streams.noise
            noise = torch.normal(0.0, std, shape, generator=rng, dtype=parameter.dtype)
            parameter.grad = total.add_(noise.to(total.device)).div_(self._divisor)
        self._taken.append(SampledGaussian(self._rate, multiplier))

    @contextmanager
    def _way(self) -> Generator[ClippedSum]:
        inputs, labels = self._private.inputs, self._private.labels
        nothing = inputs.new_zeros((1, *inputs.shape[1:]))
        way = self._pinned or fastest(
            self._clipping, nothing, labels.new_zeros((1, *labels.shape[1:]))
        )
        if way is Way.OPACUS:
            from fedkd_clients.opacus_clipping import hooked

            with hooked(self._clipping, self._streams.module) as clipped_sum:
                yield clipped_sum
        else:
            yield partial(closed_form if way is Way.CLOSED_FORM else mapped, self._clipping)


def poisson_batches(n: int, *, rate: float, n_steps: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield the examples of each batch: every one of ``n`` is drawn with probability ``rate``.

    The numbers are those of Opacus' ``UniformWithReplacementSampler``; nobody's are drawn as one's.
    """
    for _ in range(n_steps):
        drawn = torch.rand(max(1, n), generator=rng) < rate
        yield drawn[:n].nonzero().flatten()


def _interleave(
    student: Student,
    gradients: PrivateGradients,
    lesson: Lesson,
    *,
    scenario: Scenario,
    rng: torch.Generator,
) -> None:
    recipe = scenario.training
    private_steps = recipe.local_epochs * scenario.privacy.steps_per_epoch()
    n_steps = max(private_steps, -(-len(lesson) // recipe.batch_size))
    shared = epochs(len(lesson), recipe.batch_size, rng=rng)
    for n in range(n_steps):
        student.optimizer.zero_grad()
        if (n + 1) * private_steps // n_steps > n * private_steps // n_steps:
            gradients.compute()
            for parameter in student.module.parameters():
                if parameter.grad is not None:
                    parameter.grad *= recipe.ce_weight
        lesson_loss(student.module, lesson, next(shared)).backward()
        student.optimizer.step()
