"""Supervised training on the proxy set with its true labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedkd.methods.base import Alone, Holding, methods


@methods.register("pooled_supervised")
@dataclass(frozen=True)
class PooledSupervised(Alone):
    """Oracle control: one model trained on the proxy set with its true labels.

    The fair question to every pooled proxy: if raw private examples are shared anyway, why not
    share their labels too? With an external proxy the true labels of the external rows are used.
    """

    oracle: ClassVar[bool] = True
    holding: ClassVar[Holding] = Holding.LABELLED_PROXY
