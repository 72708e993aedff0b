"""What an attack is: it reads one adversary's view and is scored against the truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
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
        train_many: fits a fresh model of the run's first architecture to each lot of labelled
            examples, from the seed beside it, with the scenario's recipe and so many passes;
            ``train_many(lots, passes)``. One call with many lots is faster than many calls, and
            holds a block of lots at once where they are made as they are read.
        distil_many: the same for soft targets.
        load: the run's model with given parameters.
    """

    scenario: Scenario
    task: Task
    public: Examples
    train_many: Callable[[Iterable[tuple[Examples, int]], int], list[nn.Module]]
    distil_many: Callable[[Iterable[tuple[Lesson, int]], int], list[nn.Module]]
    load: Callable[[Update], nn.Module]

    def train(self, examples: Examples, passes: int, seed: int) -> nn.Module:
        """Return one model fitted to labelled examples."""
        return self.train_many([(examples, seed)], passes)[0]

    def distil(self, lesson: Lesson, passes: int, seed: int) -> nn.Module:
        """Return one model fitted to soft targets."""
        return self.distil_many([(lesson, seed)], passes)[0]


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
    """

    adversary: ClassVar[Adversary]
    channel: ClassVar[Channel]

    @abstractmethod
    def applies(self, bench: Bench, truth: Truth) -> str:
        """Return why it cannot run on this kind of scenario, or an empty text."""

    def set_aside(self, bench: Bench) -> str:
        """Return why its tests do not count in the verdict on such a run, or an empty text.

        They do not where it may succeed although nothing private leaks: any exchange of knowledge
        lets it, or members differ from non-members in more than membership.
        """
        return ""

    @abstractmethod
    def run(self, view: View, bench: Bench, truth: Truth, *, rng: np.random.Generator) -> Result:
        """Attack; NotSeen when the adversary lacks what the attack reads."""


attacks = Registry("attack", Attack, package="fedkd.audit.attacks")
