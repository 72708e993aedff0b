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
        hidden.mul_(self._hidden > 0)
        _product(hidden.transpose(1, 2), self._inputs, out=first)
        torch.sum(hidden, dim=1, out=first_bias)


def _product(left: Tensor, right: Tensor, *, out: Tensor) -> None:
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
        batches = _Batches.of([jobs[n] for n in order], [plans[n] for n in order])
        _carry_out(block, batches, network, packing=packing, job=jobs[0])
        if not sorted_rows:
            rows[order] = block


@dataclass(frozen=True, eq=False, kw_only=True)
class _Side:
    """What is read of one kind of example: ``index`` and ``there``, ``[steps, clients, batch]``."""

    index: Tensor
    there: Tensor

    @staticmethod
    def of(plans: Sequence[Sequence[Tensor | None]], starts: Sequence[int]) -> _Side | None:
        """Pad the batches of all clients; None when nobody reads any."""
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
        return _Side(
            index=index.mul_(there).transpose(0, 1).contiguous(),
            there=there.transpose(0, 1).contiguous(),
        )

    def on(self, device: torch.device) -> _Side:
        """Return the same on a device."""
        return _Side(index=self.index.to(device), there=self.there.to(device))


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
    def of(jobs: Sequence[Job], plans: Sequence[Sequence[Any]]) -> _Batches:
        """Lay the private examples of a block one after the other."""
        lesson, device = jobs[0].lesson, jobs[0].private.inputs.device
        starts = [0]
        for job in jobs[:-1]:
            starts.append(starts[-1] + len(job.private))
        own = _Side.of([[step[0] for step in plan] for plan in plans], starts)
        shared = _Side.of([[step[1] for step in plan] for plan in plans], [0] * len(plans))
        lengths = torch.tensor([len(plan) for plan in plans])
        n_steps = len(plans[0])
        return _Batches(
            active=[int((lengths > n).sum()) for n in range(n_steps)],
            inputs=torch.cat([job.private.inputs for job in jobs]),
            labels=torch.cat([job.private.labels for job in jobs]),
            own=None if own is None else own.on(device),
            lesson=lesson,
            shared=None if shared is None else shared.on(device),
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
        self._own = self._at(batches.own, step, n_active)
        self._shared = self._at(batches.shared, step, n_active)
        read: list[Tensor] = []
        if self._own is not None:
            read.append(batches.inputs[self._own.index])
        if self._shared is not None and batches.lesson is not None:
            read.append(batches.lesson.inputs[self._shared.index])
        self.inputs = read[0] if len(read) == 1 else torch.cat(read, dim=1)

    @staticmethod
    def _at(side: _Side | None, step: int, n_active: int) -> _Side | None:
        if side is None:
            return None
        there = side.there[step, :n_active]
        return _Side(index=side.index[step, :n_active], there=there)

    def slopes(self, logits: Tensor, job: Job) -> Tensor:
        """Return the gradient of the summed losses with respect to the logits."""
        logits = logits.requires_grad_()
        with torch.enable_grad():
            loss, cut = logits.new_zeros(()), 0
            if self._own is not None:
                cut = self._own.index.shape[1]
                mine = self._own_loss(logits[:, :cut], job)
                loss = loss + (mine * self._ce_weight(job)).sum()
            if self._shared is not None and self._batches.lesson is not None:
                loss = loss + self._lesson_loss(logits[:, cut:], self._batches.lesson).sum()
            (slopes,) = torch.autograd.grad(loss, [logits])
        return slopes

    def _ce_weight(self, job: Job) -> Tensor | float:
        """Private examples weigh ``ce_weight`` beside a lesson, and all where there is none."""
        if self._shared is None:
            return 1.0
        beside = self._shared.there.any(dim=1)
        return torch.where(beside, job.recipe.ce_weight, 1.0)

    def _own_loss(self, logits: Tensor, job: Job) -> Tensor:
        if self._own is None:
            raise ValueError("no private examples in this step")
        labels = self._batches.labels[self._own.index].flatten()
        losses = job.task.loss(as_rows(logits), labels)
        return _means(losses, self._own.there)

    def _lesson_loss(self, logits: Tensor, lesson: Lesson) -> Tensor:
        if self._shared is None:
            raise ValueError("no lesson in this step")
        at = self._shared.index.flatten()
        losses = lesson_losses(as_rows(logits), lesson, at)
        there = self._shared.there
        if lesson.known is None:
            return _means(losses, there)
        known = lesson.known[at].view(*there.shape, -1) & there[..., None]
        return _means(losses, known.flatten(1))


def _means(losses: Tensor, there: Tensor) -> Tensor:
    """Return each client's mean over the rows that are there, ``[clients]``; 0 for none."""
    each = losses.view(len(there), there.shape[1], -1).mean(dim=2)
    counted = there.to(losses.dtype)
    return (each * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
