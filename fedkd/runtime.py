"""Settings of a run that are not what it learns: where it computes, its seeds, what is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from annotated_types import Ge

from fedkd.errors import ConfigError
from fedkd.training.executors.choice import Chosen, ExecutorName


class Device(StrEnum):
    """Where tensors live."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


class Backend(StrEnum):
    """What carries a simulation's messages."""

    LOCAL = "local"
    RAY = "ray"
    FLOWER = "flower"


class Kept(StrEnum):
    """Which rounds a transcript keeps."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Speed knobs; they do not belong to the scenario hash.

    Attributes:
        device: ``auto`` takes CUDA when there is one.
        threads: torch threads of one process.
        workers: processes that share the clients of a simulation; ``auto`` is one a core (of the
            whole cluster on Ray), and on CUDA one a GPU of the cluster, or one in all.
        executor: how clients are trained; ``auto`` asks the table of ``training/executors``.
        calibrate: time the executors, blocks and prediction batches of every model before the run
            and take the fastest, in place of the table.
        choices: how models are run, where that is settled: what calibration found, as the run
            folder has it. Replaying or resuming a run takes it as it is and times nothing.
        backend: ``local`` is this machine; ``ray`` a cluster of many, our actors on it; ``flower``
            Flower's own simulation, also on Ray, with its own processes for every message.
        ray_address: of a Ray cluster that runs already; empty takes ``$RAY_ADDRESS``, else one is
            started on this machine for the run.
        checkpoint_every: rounds between checkpoints, from which ``fedkd resume`` goes on after a
            kill; 0 writes none. With many large models, each takes as long as writing them all.
    """

    device: Device = Device.CPU
    threads: Annotated[int, Ge(1)] = 1
    workers: Annotated[int, Ge(1)] | Literal["auto"] = "auto"
    executor: ExecutorName = ExecutorName.AUTO
    calibrate: bool = False
    choices: tuple[Chosen, ...] = ()
    backend: Backend = Backend.LOCAL
    ray_address: str = ""
    checkpoint_every: Annotated[int, Ge(0)] = 1

    def __post_init__(self) -> None:
        """Refuse two answers to one question, and timings of another device than clients use."""
        asked = "calibrate" if self.calibrate else "choices"
        if self.executor is not ExecutorName.AUTO and (self.calibrate or self.choices):
            raise ConfigError(
                f"executor: {self.executor.value!r} is pinned, which leaves {asked} nothing to "
                "say; use executor=auto, or leave the other out"
            )
        named = [chosen.model for chosen in self.choices]
        if len(set(named)) < len(named):
            raise ConfigError(f"choices: {named!r} names a model twice; keep one of them")
        elsewhere = self.backend is not Backend.LOCAL and self.device is not Device.CPU
        if self.calibrate and elsewhere and not self.choices:
            raise ConfigError(
                f"calibrate: true times this machine, and on {self.backend.value!r} clients may "
                "compute on another's GPU; use calibrate=false, or device=cpu"
            )

    def untimed(self, models: Iterable[str]) -> list[str]:
        """Return those of the models, each once, that ``calibrate`` has still to time."""
        settled = {chosen.model for chosen in self.choices}
        return [name for name in dict.fromkeys(models) if self.calibrate and name not in settled]

    def check_timed(self, models: Iterable[str]) -> None:
        """Refuse a run that nobody timed the models for: served to clients, or begun by Flower.

        Raises:
            ConfigError: ``calibrate`` is asked for and a model has no choice.
        """
        if untimed := self.untimed(models):
            raise ConfigError(
                f"runtime.calibrate: true, but nobody timed {', '.join(untimed)}; only 'fedkd "
                "simulate' does, on the machine that its clients share; use calibrate=false"
            )


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Separate seeds; None takes the scenario's ``seed``.

    Attributes:
        noise: of all privacy noise and of DP-SGD's batches. ``secret`` draws it from the operating
            system, as a real deployment must; such a run cannot be repeated bit by bit.
    """

    partition: Annotated[int, Ge(0)] | None = None
    initialization: Annotated[int, Ge(0)] | None = None
    training: Annotated[int, Ge(0)] | None = None
    noise: Annotated[int, Ge(0)] | Literal["secret"] | None = None
