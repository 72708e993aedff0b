"""Clipped gradients by Opacus 1.6: the way for models that no faster one fits, and the reference.

Importing Opacus takes seconds, so this module is imported where it is needed and nowhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedkd.rng import borrowed
from fedkd.tasks import as_rows
from fedkd.training.steps import as_model_input
from fedkd_clients.clipping import ClippedSum, Clipping


@contextmanager
def hooked(clipping: Clipping, rng: torch.Generator) -> Generator[ClippedSum]:
    """Hook into the module; it comes out as it went in.

    ``rng`` is what the module draws from. While a sum is computed, gradients that parameters had
    are lost.
    """
    # Of the optimiser, clipping alone is used: noise and divisor are not its business here.
    optimizer = DPOptimizer(
        torch.optim.SGD(clipping.parameters, lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=clipping.clip_norm,
        expected_batch_size=1,
    )
    hooks = _RowMajorHooks(clipping.module, loss_reduction="sum")
    hooks.disable_hooks()

    def clipped_sum(inputs: Tensor, labels: Tensor) -> list[Tensor]:
        optimizer.zero_grad(set_to_none=True)
        hooks.enable_hooks()
        with borrowed(rng):
            logits = as_rows(clipping.module(as_model_input(inputs)))
            losses = clipping.task.loss(logits, labels.flatten())
            (losses.sum() / clipping.task.rows_per_input).backward()
        hooks.disable_hooks()
        parameters: list[Any] = optimizer.params
        _drop_what_is_not_finite(parameters)
        optimizer.clip_and_accumulate()
        sums: list[Tensor] = [parameter.summed_grad for parameter in parameters]
        optimizer.zero_grad(set_to_none=True)
        return sums

    try:
        with warnings.catch_warnings():  # images need no gradient, and torch would say so
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield clipped_sum
    finally:
        optimizer.zero_grad(set_to_none=True)
        hooks.cleanup()
        _erase_marks(clipping.module)


def refusal(layer: nn.Module) -> str:
    """Return why Opacus refuses a layer, in a sentence; empty when it does not."""
    for kind in type(layer).__mro__:
        check: Any = ModuleValidator.VALIDATORS.get(kind)
        if check is not None and (errors := check(layer)):
            return str(errors[0]).split(". ")[0]
    return ""


def _drop_what_is_not_finite(parameters: list[Any]) -> None:
    """Zero the gradients of examples that clipping cannot bound."""
    finite = torch.stack([p.grad_sample.flatten(1).isfinite().all(dim=1) for p in parameters])
    lost = ~finite.all(dim=0)
    if bool(lost.any()):
        for parameter in parameters:
            parameter.grad_sample[lost] = 0


def _erase_marks(module: nn.Module) -> None:
    marked: list[Any] = [*module.parameters(), *module.modules()]
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
