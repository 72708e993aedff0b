"""What an attack is: it reads one adversary's view and is scored against the truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedkd.audit.findings import Result
from fedkd.audit.views import Adversary, Channel, View
from fedkd.data.federation import Planted
from fedkd.registry import Registry
from fedkd.scenario import Scenario
from fedkd.tasks import Task
from fedkd.training.steps import Examples, Lesson
from fedkd.types import Update


@dataclass(frozen=True, eq=False, kw_only=True)
class Bench:
    """What every adversary has beside its view: public data, and a way to train models.

    Attributes:
        scenario: of the run; its settings are public.
        task: what models learn.
        public: labelled examples of the same distribution that no client holds: half of the test
            set. The other half are the non-members. Inputs that became canaries
            are in neither.
        train: fits a fresh model of the run's first architecture to labelled examples, with the
            scenario's recipe and this many passes; ``train(examples, passes, seed)``.
        distil: the same for soft targets; ``distil(lesson, passes, seed)``.
        load: the run's model with given parameters.
    """

    scenario: Scenario
    task: Task
    public: Examples
    train: Callable[[Examples, int, int], nn.Module]
    distil: Callable[[Lesson, int, int], nn.Module]
    load: Callable[[Update], nn.Module]


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """What really happened: attacks are scored with it and must not guess from it.

    Attributes:
        members: by client, the examples it trained on, without canaries and without those that
            anybody gave to the proxy set in clear.
        nonmembers: labelled examples that nobody trained on.
        planted: the canaries, with the data set they are planted in.
        label_counts: float64 ``[clients, classes]``, of all training examples without canaries.
    """

    members: Mapping[int, Examples]
    nonmembers: Examples
    planted: Planted
    label_counts: NDArray[np.float64]


class Attack(ABC):
    """One way to learn something private from one channel.

    Attributes:
        adversary: whose view it is given.
        channel: what it reads there.
        decides: whether its tests count in the verdict. Not where any exchange of knowledge lets
            it succeed, or where it tries the channel with clients that were not in the run.
    """

    adversary: ClassVar[Adversary]
    channel: ClassVar[Channel]
    decides: ClassVar[bool] = True

    @abstractmethod
    def applies(self, bench: Bench, truth: Truth) -> str:
        """Return why it cannot run on this kind of scenario, or an empty text."""

    @abstractmethod
    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Attack; NotSeen when the adversary lacks what the attack reads."""


attacks = Registry("attack", Attack, package="fedkd.audit.attacks")


def decides(name: str) -> bool:
    """Return whether an attack's tests count in the verdict; so do those of an unknown name."""
    return attacks.get(name).decides if name in attacks.names() else True
