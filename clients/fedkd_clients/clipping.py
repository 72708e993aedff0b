"""The sum of clipped gradients of single examples, in the fastest way that a model's form allows.

All ways give the same up to rounding: the gradient of each example, over all parameters together,
is shortened to ``clip_norm`` where it is longer, and what is left of each is added up; an example
whose gradient is not finite counts as nothing. The norms of multilayer perceptrons have a closed
form (Goodfellow 2015, https://arxiv.org/abs/1510.01799); ``torch.func`` maps other models over
examples, so that a model is shown each by itself. What cannot be mapped (layers that draw random
numbers, recurrent ones) is left to Opacus, in ``opacus_clipping``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedkd.tasks import Task, as_rows
from fedkd.training.executors.base import draws
from fedkd.training.steps import scaled

HELD = 1 << 23
"""Numbers of single examples' gradients that are held at once; it bounds memory alone."""

ClippedSum = Callable[[Tensor, Tensor], list[Tensor]]
"""From stored inputs ``[n, *features]`` and labels, n > 0, to the clipped sum of each parameter."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Clipping:
    """Whose gradients are clipped, and to what.

    Attributes:
        module: in training mode; it comes out of a sum as it went in.
        parameters: those that are trained, each once; sums come in this order.
        task: gives the loss of every row.
        clip_norm: how long the gradient of one example may be.
    """

    module: nn.Module
    parameters: Sequence[nn.Parameter]
    task: Task
    clip_norm: float


class Way(StrEnum):
    """How clipped sums are computed."""

    CLOSED_FORM = "closed form"
    MAPPED = "mapped"
    OPACUS = "opacus"


def fastest(clipping: Clipping, inputs: Tensor, labels: Tensor) -> Way:
    """Return the fastest way for a model.

    Args:
        clipping: gives the model.
        inputs: made up, ``[1, *features]``; what can be mapped is found out by trying.
        labels: made up.
    """
    if is_perceptron(clipping.module) and clipping.task.rows_per_input == 1:
        return Way.CLOSED_FORM
    layers = [layer for _, layer in clipping.module.named_modules(remove_duplicate=False)]
    recurrent = any(isinstance(layer, nn.RNNBase) for layer in layers)
    twice = len(set(layers)) < len(layers)  # functional_call would not put its weights back
    if recurrent or twice or draws(clipping.module):
        return Way.OPACUS
    try:
        mapped(clipping, inputs, labels)
    except Exception:  # if it is not the mapping that fails, Opacus' way will say so
        return Way.OPACUS
    return Way.MAPPED


def is_perceptron(module: nn.Module) -> bool:
    """Return whether a module is flatten, then linear layers with ReLU between, and no more.

    Subclasses, hooks, buffers and weights that layers share make it another form.
    """
    layers = list(module.children())
    kinds = [type(layer) for layer in layers]
    form = [nn.Flatten, nn.Linear, *[nn.ReLU, nn.Linear] * ((len(kinds) - 2) // 2)]
    if type(module) is not nn.Sequential or kinds != form:
        return False
    flatten = layers[0]
    whole = isinstance(flatten, nn.Flatten) and (flatten.start_dim, flatten.end_dim) == (1, -1)
    names = [name for layer in layers for name, _ in layer.named_parameters()]
    hooks = [vars(one)[key] for one in module.modules() for key in vars(one) if "_hooks" in key]
    return (
        whole
        and set(names) <= {"weight", "bias"}
        and len(names) == len(list(module.parameters()))
        and next(iter(module.buffers()), None) is None
        and not any(hooks)
    )


def closed_form(clipping: Clipping, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the clipped sums of a perceptron, one matrix product a layer.

    The gradient of a linear layer is the outer product of the signal ``d`` that comes back and of
    the activation ``a``: its squared norm is ``|d|^2 |a|^2``, and ``|d|^2`` for the bias. Squares
    are float64, so that no small one is lost before a large one multiplies it. Lengths whose square
    is beyond float32 are not finite here either: what clipping left of them would have few digits.
    """
    layers = [layer for layer in clipping.module.children() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        activations = [scaled(inputs).flatten(1)]
        for layer in layers[:-1]:
            activations.append(_linear(layer, activations[-1]).relu_())
        signals = [_slopes(clipping.task, _linear(layers[-1], activations[-1]), labels)]
        for layer, activation in zip(layers[:0:-1], activations[:0:-1], strict=True):
            signals.insert(0, (signals[0] @ layer.weight).mul_(activation > 0))
        squares = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
        trained = frozenset(clipping.parameters)
        for layer, activation, signal in zip(layers, activations, signals, strict=True):
            for parameter in filter(trained.__contains__, layer.parameters()):
                weight = parameter is layer.weight
                squares += _square(signal) * (_square(activation) if weight else 1.0)
        factors, kept = _factors(clipping, squares.to(signals[0].dtype).sqrt())
        sums: dict[nn.Parameter, Tensor] = {}
        for layer, activation, signal in zip(layers, activations, signals, strict=True):
            short = signal[kept] * factors[:, None]
            for parameter in filter(trained.__contains__, layer.parameters()):
                weight = parameter is layer.weight
                sums[parameter] = short.T @ activation[kept] if weight else short.sum(dim=0)
    return [sums[parameter] for parameter in clipping.parameters]


def mapped(clipping: Clipping, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the clipped sums of any module that ``torch.func.vmap`` can map over examples.

    Raises:
        RuntimeError: it cannot; :data:`Way.OPACUS` may.
    """
    names = {parameter: name for name, parameter in clipping.module.named_parameters()}
    trained = {names[p]: p.detach().contiguous() for p in clipping.parameters}

    def loss(parameters: dict[str, Tensor], example: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(clipping.module, parameters, (example[None],))
        return clipping.task.loss(as_rows(logits), label.flatten()).sum()

    each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="error")
    size = max(1, HELD // max(1, sum(value.numel() for value in trained.values())))
    sums = [torch.zeros_like(value) for value in trained.values()]
    for some, theirs in zip(scaled(inputs).split(size), labels.split(size), strict=True):
        with sdpa_kernel(SDPBackend.MATH):  # others are no faster here, and told not to map
            found: dict[str, Tensor] = each(trained, some, theirs)
        gradients = [found[name].flatten(1) / clipping.task.rows_per_input for name in trained]
        norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients], dim=1)
        factors, kept = _factors(clipping, torch.linalg.vector_norm(norms, dim=1))
        for total, gradient in zip(sums, gradients, strict=True):
            total += (factors @ gradient[kept]).view(total.shape)
    return sums


def _factors(clipping: Clipping, norms: Tensor) -> tuple[Tensor, Tensor | slice]:
    """Return what scales each gradient, and which examples are kept: the finite ones.

    Nothing else would do for the others: zero times what is not finite is not finite. The small
    number beside the norm is the one that Opacus adds.
    """
    finite = torch.isfinite(norms)
    kept = slice(None) if bool(finite.all()) else finite
    return (clipping.clip_norm / (norms[kept] + _TINY)).clamp(max=1.0), kept


def _slopes(task: Task, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed losses with respect to the logits."""
    with torch.enable_grad():
        held = logits.requires_grad_()
        (slopes,) = torch.autograd.grad(task.loss(held, labels.flatten()).sum(), [held])
    return slopes.detach()


def _linear(layer: nn.Linear, inputs: Tensor) -> Tensor:
    return nn.functional.linear(inputs, layer.weight, layer.bias)


def _square(rows: Tensor) -> Tensor:
    """Return squared lengths, ``[n]``; infinite where they would be in the rows' own precision."""
    squares = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()
    return squares.masked_fill(squares > torch.finfo(rows.dtype).max, torch.inf)


_TINY = 1e-6
