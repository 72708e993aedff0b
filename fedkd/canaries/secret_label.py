"""An odd input with a secret label: the model's own posterior on it ranks all candidates at once.

For images and for rows of a table. Mislabelled and random inputs as canaries are after
TensorFlow Privacy's and Privacy Meter's audits; a secret label out of C makes a C-ary guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkd.canaries.base import Canary, CanaryFamily, Probes, canary_families
from fedkd.canaries.odd import CELLS, random_input, random_tiles
from fedkd.data.datasets.base import Arrays
from fedkd.errors import ConfigError
from fedkd.rng import numpy_stream


class Look(StrEnum):
    """What the input is."""

    RANDOM = "random"
    """Uniform pixels; in a table every column drawn by itself, so values are in range but
    jointly odd."""
    TILES = "tiles"
    """Black and white tiles, which a convolution tells apart where random pixels all look alike to
    it; in a table as random."""
    NATURAL = "natural"
    """An input of the test set, mislabelled unless the secret happens to be its own class; no
    longer a non-member, and the test set is by so much less a test."""


@canary_families.register("secret_label")
@dataclass(frozen=True)
class SecretLabel(CanaryFamily):
    """k = the number of classes; all insertions are the same input with the same label.

    Inputs depend on no training row, so they are the same before and after planting.

    Attributes:
        look: what the input is.
    """

    secret_in_input: ClassVar[bool] = False
    look: Look = Look.RANDOM

    def n_secrets(self, arrays: Arrays) -> int:
        """Return the number of classes; ConfigError for sequences."""
        if arrays.train_labels.ndim != 1:
            raise ConfigError(
                "canaries.family: 'secret_label' hides a label, and a text has none; use the "
                "family 'code'"
            )
        return arrays.n_classes

    def rows(
        self, arrays: Arrays, canary: Canary, *, rng: np.random.Generator
    ) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Return the input and its label, ``insertions`` times."""
        copies = np.repeat(self._input(arrays, canary)[None], canary.insertions, axis=0)
        return copies, np.full(canary.insertions, canary.secret)

    def probes(self, arrays: Arrays, canary: Canary, secrets: NDArray[np.int64]) -> Probes:
        """Return the input once for each candidate label."""
        return Probes(
            inputs=np.repeat(self._input(arrays, canary)[None], len(secrets), axis=0),
            labels=secrets,
            scored=np.ones(len(secrets), dtype=bool),
        )

    def words(self, arrays: Arrays, canary: Canary) -> str:
        """Return for example ``"random input 3 is class 7"``."""
        return f"{self.look.value} input {canary.number} is class {canary.secret}"

    def _input(self, arrays: Arrays, canary: Canary) -> NDArray[np.generic]:
        rng = numpy_stream(canary.seed, "canary input", client=canary.number)
        inputs = arrays.test_inputs
        if self.look is Look.NATURAL:
            return inputs[rng.integers(len(inputs))]
        if self.look is Look.TILES:
            return random_tiles(inputs, cells=CELLS, rng=rng)
        return random_input(inputs, rng=rng)
