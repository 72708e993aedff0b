"""Settings of a run that are not what it learns: where it computes, its seeds, what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from annotated_types import Ge

from fedkd.training.executors.choice import ExecutorName


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
    backend: Backend = Backend.LOCAL
    ray_address: str = ""
    checkpoint_every: Annotated[int, Ge(0)] = 1


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
