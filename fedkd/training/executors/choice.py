"""Which executor trains which architecture, in blocks of how many clients: a small table.

On a CPU stacking pays for multilayer perceptrons and loses for convolutions; a forward pass is
fastest in batches that fit the cache. The rows for CUDA are reasoned, not measured. What
:mod:`~fedkd.training.executors.calibration` found for a run takes the place of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import torch
from annotated_types import Ge
from torch import nn

from fedkd.errors import ConfigError
from fedkd.training.executors.base import Executor
from fedkd.training.executors.lean import Lean
from fedkd.training.executors.networks import TwoLayers
from fedkd.training.executors.serial import Serial
from fedkd.training.executors.stacked import Stacked

EXECUTORS: dict[str, Executor] = {one.name: one for one in (Serial(), Lean(), Stacked())}


class ExecutorName(StrEnum):
    """How clients are trained; ``auto`` takes the table's choice."""

    AUTO = "auto"
    SERIAL = "serial"
    LEAN = "lean"
    STACKED = "stacked"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one architecture is run.

    Attributes:
        executor: by name.
        block: clients trained together.
        prediction_batch: inputs of one forward pass without gradients.
    """

    executor: str
    block: int
    prediction_batch: int


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How a run runs the clients of one model, as a run folder records it.

    Attributes:
        model: its name.
        executor: not ``auto``.
        block: clients trained together.
        prediction_batch: inputs of one forward pass without gradients.
    """

    model: str = ""
    executor: ExecutorName = ExecutorName.SERIAL
    block: Annotated[int, Ge(1)] = 1
    prediction_batch: Annotated[int, Ge(1)] = 512

    def __post_init__(self) -> None:
        """Refuse what names no model or no executor."""
        if not self.model:
            raise ConfigError("a choice names its model; give model=cnn_small")
        if self.executor is ExecutorName.AUTO:
            raise ConfigError(f"{self.model!r} is given no executor by 'auto'; name one")

    def checked(self, module: nn.Module) -> Choice:
        """Return the choice; ConfigError when the model, of which this is one, cannot be so run."""
        if not EXECUTORS[self.executor.value].fits(module):
            raise ConfigError(
                f"runtime.choices: {self.executor.value!r} cannot train {self.model!r} {_MISFIT}; "
                "use serial, or leave the choice out"
            )
        return Choice(
            executor=self.executor.value, block=self.block, prediction_batch=self.prediction_batch
        )


def choose(
    module: nn.Module, *, device: torch.device, pinned: ExecutorName = ExecutorName.AUTO
) -> Choice:
    """Return the table's row for an architecture; ConfigError when ``pinned`` cannot train it."""
    size = sum(parameter.numel() for parameter in module.parameters())
    found = _table(module, size, device)
    if pinned is not ExecutorName.AUTO:
        if not EXECUTORS[pinned.value].fits(module):
            raise ConfigError(
                f"runtime.executor: {pinned.value!r} cannot train this model {_MISFIT}; use auto "
                "or serial"
            )
        found = Choice(
            executor=pinned.value, block=cached_block(size), prediction_batch=found.prediction_batch
        )
    return found


def _table(module: nn.Module, size: int, device: torch.device) -> Choice:
    convolves = any(isinstance(layer, nn.Conv2d) for layer in module.modules())
    depth = sum(isinstance(layer, nn.Conv2d) for layer in module.modules())
    batch = 1024 if not convolves else 256 if depth < _DEEP else 128
    stacked = device.type == "cuda" or TwoLayers.fits(module)
    if stacked and EXECUTORS["stacked"].fits(module):
        return Choice(executor="stacked", block=cached_block(size), prediction_batch=batch)
    if EXECUTORS["lean"].fits(module):
        return Choice(executor="lean", block=1, prediction_batch=batch)
    return Choice(executor="serial", block=1, prediction_batch=batch)


def cached_block(size: int, *, slots: int = 0) -> int:
    """Return how many clients' rows stay in the cache, of ``size`` parameters each.

    Each of the optimiser's ``slots`` is as large, and counts half: a step reads it once, and the
    parameters more often.
    """
    return max(1, min(_MOST, 2 * _CACHED // max(1, size * (2 + slots))))


_DEEP, _MOST, _CACHED = 4, 512, 2_000_000
_MISFIT = "(it draws random numbers, is recurrent, keeps buffers or has frozen parameters)"
