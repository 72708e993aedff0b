"""Many clients of one architecture at once: their parameters are one batch of matrices.

Every step takes each client's own batch, padded to a common size; rows that are padding weigh
nothing, and a client whose steps are over takes no further part.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils.rnn import pad_sequence

from fedkd.tasks import as_rows
from fedkd.training.executors.base import Executor, draws, has_buffers, update
from fedkd.training.packing import Packing
from fedkd.training.steps import Job, Lesson, lesson_losses, scaled


class Network(ABC):
    """Many copies of a module, evaluated and differentiated together."""

    @abstractmethod
    def logits(self, values: Tensor, inputs: Tensor) -> Tensor:
        """Return logits ``[clients, n, *positions, classes]`` of inputs ``[clients, n, ...]``.

        ``values`` are the parameters, ``[clients, size]``.
        """

    @abstractmethod
    def backward(self, slopes: Tensor, gradients: Tensor) -> None:
        """Write the gradient ``[clients, size]``, given that of the newest logits."""


class Mapped(Network):
    """Any module, by ``torch.func.vmap``."""

    def __init__(self, packing: Packing, module: nn.Module) -> None:
        self._packing = packing
        self._module = copy.deepcopy(module).train()

    def logits(self, values: Tensor, inputs: Tensor) -> Tensor:
        """Map the module over clients."""
        parts = {p.name: p.of(values).contiguous() for p in self._packing.parts}
        self._held = {name: part.detach().requires_grad_() for name, part in parts.items()}

        def one(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return functional_call(self._module, parameters, (scaled(inputs),))

        with torch.enable_grad():
            self._logits: Tensor = vmap(one)(self._held, inputs)
        return self._logits.detach()

    def backward(self, slopes: Tensor, gradients: Tensor) -> None:
        """Let autograd go through the mapped module."""
        found = torch.autograd.grad(self._logits, list(self._held.values()), slopes)
        for part, gradient in zip(self._packing.parts, found, strict=True):
            part.of(gradients).copy_(gradient)


class TwoLayers(Network):
    """Flatten, linear, ReLU, linear: batched matrix products, differentiated by hand."""

    def __init__(self, packing: Packing) -> None:
        self._parts = packing.parts

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Return whether the module is of this form."""
        if not isinstance(module, nn.Sequential):
            return False
        kinds = [type(layer) for layer in module]
        return kinds == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear] and len(
            list(module.parameters())
        ) == len(("first", "its bias", "second", "its bias"))

    def logits(self, values: Tensor, inputs: Tensor) -> Tensor:
        """Multiply, keep what the way back needs."""
        first, first_bias, second, second_bias = (part.of(values) for part in self._parts)
        self._inputs = scaled(inputs.flatten(2))
        wide = torch.baddbmm(first_bias[:, None], self._inputs, first.transpose(1, 2))
        self._hidden, self._second = wide.relu_(), second
        return torch.baddbmm(second_bias[:, None], self._hidden, second.transpose(1, 2))

    def backward(self, slopes: Tensor, gradients: Tensor) -> None:
        """Multiply back; hidden units that were zero pass nothing."""
        first, first_bias, second, second_bias = (part.of(gradients) for part in self._parts)
        _product(slopes.transpose(1, 2), self._hidden, out=second)
        torch.sum(slopes, dim=1, out=second_bias)
        hidden = torch.bmm(slopes, self._second)
        hidden = torch.ops.aten.threshold_backward(hidden, self._hidden, 0)
        _product(hidden.transpose(1, 2), self._inputs, out=first)
        torch.sum(hidden, dim=1, out=first_bias)


def _product(left: Tensor, right: Tensor, *, out: Tensor) -> None:
    """Write ``left @ right`` where clients lie apart; torch does small ones faster side by side."""
    if out[0].numel() < _SMALL:
        out.copy_(torch.bmm(left, right))
    else:
        out.baddbmm_(left, right, beta=0)


class Stacked(Executor):
    """A block of clients in one go: for small models, and for any model on a GPU."""

    name: ClassVar[str] = "stacked"

    def fits(self, module: nn.Module) -> bool:
        """Refuse buffers, and what draws or has no batching rule (recurrent layers)."""
        recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
        return not draws(module) and not has_buffers(module) and not recurrent

    def train(self, rows: Tensor, jobs: Sequence[Job], *, packing: Packing) -> None:
        """Longest jobs first, so that those still at work are the first rows.

        Raises:
            ValueError: the jobs do not share one lesson; the first one's would be taught to all.
        """
        if any(job.lesson is not jobs[0].lesson for job in jobs):
            raise ValueError("the stacked executor teaches one lesson to all; use serial or lean")
        plans = [list(job.schedule()) for job in jobs]
        order = sorted(range(len(jobs)), key=lambda n: -len(plans[n]))
        sorted_rows = order == list(range(len(jobs)))
        block = rows if sorted_rows else rows[order]
        template = packing.template
        network = TwoLayers(packing) if TwoLayers.fits(template) else Mapped(packing, template)
        batches = _Batches.of([jobs[n] for n in order], [plans[n] for n in order], like=rows)
        _carry_out(block, batches, network, packing=packing, job=jobs[0])
        if not sorted_rows:
            rows[order] = block


@dataclass(frozen=True, eq=False, kw_only=True)
class _Side:
    """What is read of one kind of example, each ``[steps, clients, batch]``.

    Attributes:
        index: positions; 0 for padding.
        there: bool, what is no padding.
        weights: of the losses: a client's mean over what is there.
    """

    index: Tensor
    there: Tensor
    weights: Tensor

    @staticmethod
    def of(
        plans: Sequence[Sequence[Tensor | None]], starts: Sequence[int], *, like: Tensor
    ) -> _Side | None:
        """Pad the batches of all clients; None when nobody reads any.

        Args:
            plans: each client's batches.
            starts: where each client's examples begin.
            like: has the device of the whole, and the type of the weights.
        """
        nothing = torch.zeros(0, dtype=torch.int64)
        n_steps = len(plans[0])
        lists = [
            [nothing if batch is None else batch for batch in plan]
            + [nothing] * (n_steps - len(plan))
            for plan in plans
        ]
        sizes = torch.tensor([[len(batch) for batch in plan] for plan in lists])
        if not sizes.any():
            return None
        flat = pad_sequence([b for plan in lists for b in plan], batch_first=True)
        index = flat.view(len(plans), n_steps, -1) + torch.tensor(starts).view(-1, 1, 1)
        there = torch.arange(index.shape[2]) < sizes[..., None]
        weights = there.to(like.dtype) / sizes.clamp(min=1)[..., None]
        parts = (index.mul_(there), there, weights)
        index, there, weights = (p.transpose(0, 1).contiguous().to(like.device) for p in parts)
        return _Side(index=index, there=there, weights=weights)

    def at(self, step: int, n_active: int) -> _Side:
        """Return what the first ``n_active`` clients read in a step, ``[n_active, batch]``."""
        parts = (self.index, self.there, self.weights)
        index, there, weights = (part[step, :n_active] for part in parts)
        return _Side(index=index, there=there, weights=weights)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Batches:
    """A block's reading plan: how many clients are at work in each step, and what they read."""

    active: list[int]
    inputs: Tensor
    labels: Tensor
    own: _Side | None
    lesson: Lesson | None
    shared: _Side | None

    @staticmethod
    def of(jobs: Sequence[Job], plans: Sequence[Sequence[Any]], *, like: Tensor) -> _Batches:
        """Lay the private examples of a block one after the other.

        Private examples weigh ``ce_weight`` beside a lesson, and all where there is none.
        """
        starts = [0]
        for job in jobs[:-1]:
            starts.append(starts[-1] + len(job.private))
        own = _Side.of([[step[0] for step in plan] for plan in plans], starts, like=like)
        nowhere = [0] * len(plans)
        shared = _Side.of([[step[1] for step in plan] for plan in plans], nowhere, like=like)
        if own is not None and shared is not None:
            beside = shared.there.any(dim=2, keepdim=True)
            own.weights.mul_(torch.where(beside, jobs[0].recipe.ce_weight, 1.0))
        lengths = torch.tensor([len(plan) for plan in plans])
        n_steps = len(plans[0])
        return _Batches(
            active=[int((lengths > n).sum()) for n in range(n_steps)],
            inputs=torch.cat([job.private.inputs for job in jobs]),
            labels=torch.cat([job.private.labels for job in jobs]),
            own=own,
            lesson=jobs[0].lesson,
            shared=shared,
        )


def _carry_out(
    rows: Tensor, batches: _Batches, network: Network, *, packing: Packing, job: Job
) -> None:
    gradients = torch.empty_like(packing.values(rows), memory_format=torch.contiguous_format)
    for step, n_active in enumerate(batches.active):
        live, slopes_into = rows[:n_active], gradients[:n_active]
        parts = _Parts(batches, step, n_active)
        logits = network.logits(packing.values(live), parts.inputs)
        network.backward(parts.slopes(logits, job), slopes_into)
        update(live, slopes_into, packing=packing, recipe=job.recipe)


class _Parts:
    """One step of a block: private examples first, then the lesson's."""

    def __init__(self, batches: _Batches, step: int, n_active: int) -> None:
        self._batches = batches
        self._own = None if batches.own is None else batches.own.at(step, n_active)
        self._shared = None if batches.shared is None else batches.shared.at(step, n_active)
        read: list[Tensor] = []
        if self._own is not None:
            read.append(batches.inputs[self._own.index])
        if self._shared is not None and batches.lesson is not None:
            read.append(batches.lesson.inputs[self._shared.index])
        self.inputs = read[0] if len(read) == 1 else torch.cat(read, dim=1)

    def slopes(self, logits: Tensor, job: Job) -> Tensor:
        """Return the gradient of the summed losses with respect to the logits."""
        own, shared, lesson = self._own, self._shared, self._batches.lesson
        logits, losses = logits.requires_grad_(), list[Tensor]()
        with torch.enable_grad():
            if shared is not None and lesson is not None:
                theirs = logits if own is None else logits[:, own.index.shape[1] :]
                losses.append(_lesson_loss(theirs, shared, lesson))
            if own is not None:
                mine = logits if shared is None else logits[:, : own.index.shape[1]]
                labels = self._batches.labels[own.index].flatten()
                losses.append(_weighed(job.task.loss(as_rows(mine), labels), own.weights))
            (slopes,) = torch.autograd.grad(losses, [logits])
        return slopes


def _lesson_loss(logits: Tensor, shared: _Side, lesson: Lesson) -> Tensor:
    at = shared.index.flatten()
    losses = lesson_losses(as_rows(logits), lesson, at)
    if lesson.known is None:
        return _weighed(losses, shared.weights)
    known = lesson.known[at].view(*shared.there.shape, -1) & shared.there[..., None]
    counted = known.flatten(1).to(losses.dtype)
    return _weighed(losses, counted / counted.sum(dim=1, keepdim=True).clamp(min=1))


def _weighed(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the weighed sum of the losses of inputs ``[clients, n]``, means over positions."""
    each = losses.view(*weights.shape, -1)
    return (each * (weights / each.shape[2])[..., None]).sum()


_SMALL = 16_384
"""Numbers of a client's matrix below which a call for each client costs more than a copy."""
