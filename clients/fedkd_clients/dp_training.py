"""Private training: a client's examples reach its model through DP-SGD and nothing else.

A step clips the gradient of every example of a Poisson batch, adds them up, adds Gaussian noise
and divides by ``training.batch_size``. The number of steps, the sampling probability, the noise
and the divisor are public settings, so a client with no example takes the same steps as any other.
Distillation reads proxy rows and received scores only: its gradient is added after the noise, is
never clipped and costs nothing.

Clipping, sampling and the noisy optimiser are those of Opacus 1.6. Its ``PrivacyEngine`` is not
used: it derives the sampling rate and the divisor from the (private) number of examples. Noise
comes from PyTorch's generator; it is not hardened against attacks on floating-point arithmetic.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from opacus.validators import ModuleValidator
from torch import nn

from fedkd.errors import ConfigError
from fedkd.privacy.events import Event, SampledGaussian, Uncounted
from fedkd.rng import borrowed
from fedkd.scenario import Scenario
from fedkd.tasks import Task, as_rows
from fedkd.training.recipe import Order
from fedkd.training.steps import (
    Examples,
    Lesson,
    Student,
    as_model_input,
    distil_pass,
    epochs,
    lesson_loss,
)

PART = 128
"""Examples whose gradients are held at once; it bounds memory and changes nothing else."""


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
        What the steps that were really taken cost: their number, rate and noise as Opacus saw
        them. Without noise the event is uncounted.

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
        check: Any = ModuleValidator.VALIDATORS.get(type(layer))
        errors = check(layer) if check is not None else []
        reason = str(errors[0]).split(". ")[0] if errors else ""
        if not reason and list(layer.buffers(recurse=False)):
            reason = "It has buffers, which can carry private statistics past the noise"
        if reason:
            raise ConfigError(
                f"models: the layer {name!r} is a {type(layer).__name__}, which DP-SGD cannot "
                f"train. {reason}. Use torch.nn.GroupNorm for a norm, opacus.layers for the rest, "
                "or privacy.dp_sgd=false"
            )


class PrivateGradients:
    """Puts the noisy gradient of one Poisson batch after another into ``p.grad``."""

    def __init__(
        self,
        student: Student,
        private: Examples,
        *,
        scenario: Scenario,
        task: Task,
        streams: Streams,
    ) -> None:
        privacy = scenario.privacy
        if privacy.noise_multiplier is None:
            raise ConfigError(
                "privacy.noise_multiplier: None says nothing about the noise; set "
                "privacy.target_epsilon, from which it is worked out, or give a number"
            )
        self._module, self._private, self._task = student.module, private, task
        self._rate, self._streams = privacy.sampling_probability, streams
        self._optimizer = _HostNoise(
            student.optimizer,
            noise_multiplier=privacy.noise_multiplier,
            max_grad_norm=privacy.clip_norm,
            expected_batch_size=scenario.training.batch_size,
            generator=streams.noise,
        )
        self._taken: list[SampledGaussian] = []

    @contextmanager
    def attached(self, n_steps: int) -> Generator[None]:
        """Hook into the module for ``n_steps`` batches; it comes out as it went in."""
        sampler = UniformWithReplacementSampler(
            num_samples=max(1, len(self._private)),  # it refuses 0; the one is dropped again
            sample_rate=self._rate,
            generator=self._streams.sampling,
            steps=n_steps,
        )
        self._batches = iter(sampler)
        self._optimizer.attach_step_hook(
            lambda done: self._taken.append(
                SampledGaussian(sampler.sample_rate, done.noise_multiplier)
            )
        )
        self._hooks = _RowMajorHooks(self._module, loss_reduction="sum")
        self._hooks.disable_hooks()
        try:
            with warnings.catch_warnings():  # images need no gradient, and torch would say so
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                yield
        finally:
            self._detach()

    def compute(self) -> None:
        """Overwrite ``p.grad`` with the noisy gradient of the next batch, of whatever size."""
        drawn = [row for row in next(self._batches) if row < len(self._private)]
        rows = torch.tensor(drawn, dtype=torch.int64, device=self._private.labels.device)
        parts = rows.split(PART)
        for n, part in enumerate(parts, 1):
            self._optimizer.zero_grad(set_to_none=True)
            self._per_example(part)
            self._optimizer.signal_skip_step(n < len(parts))
            self._optimizer.pre_step()

    def event(self) -> Event:
        """Return what was done, as the optimiser's step hook saw it."""
        first = self._taken[0]
        if any(step != first for step in self._taken):
            raise RuntimeError("the steps of one round differ in noise; nothing bounds them")
        if first.noise_multiplier == 0:
            return Uncounted("DP-SGD without noise")
        return replace(first, count=len(self._taken))

    def _per_example(self, rows: torch.Tensor) -> None:
        """Put the gradients of these examples into ``p.grad_sample``, ``[rows, *p.shape]``."""
        parameters: list[Any] = self._optimizer.params
        if len(rows) == 0:
            for parameter in parameters:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            return
        self._hooks.enable_hooks()
        with borrowed(self._streams.module):
            logits = as_rows(self._module(as_model_input(self._private.inputs[rows])))
            losses = self._task.loss(logits, self._private.labels[rows].flatten())
            (losses.sum() / self._task.rows_per_input).backward()
        self._hooks.disable_hooks()
        for parameter in parameters:  # clipping cannot bound what is not finite
            parameter.grad_sample.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)

    def _detach(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._hooks.cleanup()
        marked: list[Any] = [*self._module.parameters(), *self._module.modules()]
        for one in marked:
            for mark in {"summed_grad", "activations", "max_batch_len"} & vars(one).keys():
                delattr(one, mark)


class _RowMajorHooks(GradSampleHooks):
    """Keeps activations in row-major memory.

    Opacus 1.6 unfolds a convolution's input by strides that hold for no other layout: given
    ``channels_last``, its gradients are wrong and mix examples, without a warning.
    """

    def capture_activations_hook(
        self, module: nn.Module, forward_input: list[torch.Tensor], _forward_output: torch.Tensor
    ) -> None:
        """Keep what went into a layer, as Opacus does, but in rows."""
        rows = [tensor.contiguous() for tensor in forward_input]
        super().capture_activations_hook(module, rows, _forward_output)


class _HostNoise(DPOptimizer):
    """Draws noise on the host, so that it is the same on every device."""

    def add_noise(self) -> None:
        """Set ``p.grad`` to the clipped sum plus noise, laid out in memory as ``p`` is."""
        std = self.noise_multiplier * self.max_grad_norm
        parameters: list[Any] = self.params
        for parameter in parameters:
            total = parameter.summed_grad
            noise = torch.normal(0.0, std, total.shape, generator=self.generator, dtype=total.dtype)
            parameter.grad = torch.empty_like(parameter).copy_(total + noise.to(total.device))


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
