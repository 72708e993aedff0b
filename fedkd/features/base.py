"""What a feature space is: a map fitted on the proxy set, in which filters measure distances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from fedkd.registry import Registry

Transform = Callable[[Tensor], Tensor]
"""Inputs ``[n, *features]`` (uint8 or float32) to features float32 ``[n, d]``."""


class Features(ABC):
    """A feature space that every client can rebuild from the proxy set alone.

    Since it is fitted on the proxy set that all clients hold, all clients measure in the same
    space and nothing has to be sent for it. A frozen network of your own joins by its name::

        @features.register("my_net")
        @dataclass(frozen=True)
        class MyNet(Features):
            def fit(self, proxy_inputs: Tensor) -> Transform:
                return my_frozen_net  # pretrained elsewhere, in eval mode, takes what inputs are
    """

    @abstractmethod
    def fit(self, proxy_inputs: Tensor) -> Transform:
        """Return the transform; deterministic in ``proxy_inputs`` (``[m, *features]``)."""


features = Registry("feature space", Features, package="fedkd.features")
