"""What an executor is: it trains clients of one architecture, whose rows lie in one matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedkd.rng import borrowed
from fedkd.training.executors.networks import Batches, Network
from fedkd.training.jobs import Job
from fedkd.training.packing import Packing, aligned_rows
from fedkd.training.recipe import OptimizerName


class Executor(ABC):
    """One way to carry out jobs; all give what ``serial`` gives, within rounding.

    Attributes:
        name: what ``runtime.executor`` calls it.
        in_step: clients that it likes to be given at once, however small the block is.
    """

    name: ClassVar[str]
    in_step: ClassVar[int] = 1

    @abstractmethod
    def fits(self, module: nn.Module) -> bool:
        """Return whether it can train this architecture."""

    @abstractmethod
    def train(self, rows: Tensor, jobs: Sequence[Job], *, packing: Packing) -> None:
        """Train each client's row of ``rows``, float ``[clients, width]``, in place.

        All jobs have the same recipe and task. Nothing is left behind but the rows.
        """


class borrowing:
    """A job's own stream for what a module draws, where it has one."""

    def __init__(self, job: Job) -> None:
        self._held = None if job.module is None else borrowed(job.module)

    def __enter__(self) -> None:
        if self._held is not None:
            self._held.__enter__()

    def __exit__(self, *problem: object) -> None:
        if self._held is not None:
            self._held.__exit__(None, None, None)


def draws(module: nn.Module) -> bool:
    """Return whether the module draws random numbers as it trains."""
    dropouts = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    return any(
        isinstance(layer, dropouts) or getattr(layer, "dropout", 0) not in (0, 0.0)
        for layer in module.modules()
    )


def keeps_more(module: nn.Module) -> bool:
    """Return whether it carries more than parameters to be trained: statistics, frozen ones."""
    frozen = any(not parameter.requires_grad for parameter in module.parameters())
    return frozen or next(iter(module.buffers()), None) is not None


@torch.no_grad()
def descend(
    network: Network[Batches],
    slopes: Batches,
    rows: Tensor,
    gradients: Tensor,
    *,
    packing: Packing,
) -> None:
    """Take one optimiser step on whole rows, as ``torch.optim`` would on each.

    Gradients are made where they are wanted: of plain SGD, in the parameters themselves.

    Args:
        network: gave the newest logits of the parameters in ``rows``.
        slopes: the gradient of those logits.
        rows: ``[clients, width]``, changed in place.
        gradients: of :func:`gradients_for`, at least as many rows; overwritten.
        packing: where things lie, and the recipe.
    """
    values, moments, recipe = packing.values(rows), packing.moments(rows), packing.recipe
    rate = recipe.learning_rate
    if recipe.optimizer is OptimizerName.SGD:
        if moments:
            network.backward(slopes, moments[0], keep=recipe.momentum, scale=1)
            values.add_(moments[0], alpha=-rate)
        else:  # in one pass over the parameters
            network.backward(slopes, values, keep=1, scale=-rate)
        rows[:, -1] += 1
        return
    gradients = gradients[: len(rows)]
    network.backward(slopes, gradients, keep=0, scale=1)
    rows[:, -1] += 1
    beta1, beta2, epsilon = _ADAM
    mean, square = moments
    # One pass over each row in place of nine over all, and a row's bits whatever the others are.
    torch._fused_adam_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        list(values.unbind()),
        list(gradients.unbind()),
        list(mean.unbind()),
        list(square.unbind()),
        [],
        list(rows[:, -1].unbind()),
        lr=rate,
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=epsilon,
        amsgrad=False,
        maximize=False,
    )


def gradients_for(rows: Tensor, *, packing: Packing) -> Tensor:
    """Return room for the gradients of ``rows``; none where a step needs no room of its own."""
    n_clients = len(rows) if packing.recipe.optimizer is OptimizerName.ADAM else 0
    return aligned_rows(n_clients, packing.size, like=rows)


_ADAM = (0.9, 0.999, 1e-8)
