"""One of many random patterns with a fixed label: which one was trained on is the secret.

For data with few classes, where a secret label is easily guessed: the family has as many secrets
as patterns. The rank of the inserted pattern among all is the exposure's, after Carlini et al.,
https://arxiv.org/abs/1802.08232.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval
from numpy.typing import NDArray

from fedkd.canaries.base import Canary, CanaryFamily, Probes, canary_families
from fedkd.canaries.odd import CELLS, random_tiles
from fedkd.data.datasets.base import Arrays
from fedkd.errors import ConfigError
from fedkd.rng import numpy_stream


@canary_families.register("pattern")
@dataclass(frozen=True)
class Pattern(CanaryFamily):
    """k = ``candidates``; patterns and label are public, all insertions are the same pattern.

    Images are black and white tiles; rows of a table have every column drawn by itself. They
    depend on no training row, so they are the same before and after planting. A canary is worth
    as much as the model tells its patterns apart: tiles do better than noise.

    Attributes:
        candidates: patterns of a canary; with few tiles two may be equal, which only ties ranks.
        cells: tiles along each side of an image.
    """

    candidates: Annotated[int, Ge(2)] = 100
    cells: Annotated[int, Interval(ge=2, le=16)] = CELLS

    def n_secrets(self, arrays: Arrays) -> int:
        """Return the number of patterns; ConfigError for sequences."""
        if arrays.train_labels.ndim != 1:
            raise ConfigError(
                "canaries.family: 'pattern' draws whole inputs, which no text is; use "
                "the family 'code'"
            )
        return self.candidates

    def rows(
        self, arrays: Arrays, canary: Canary, *, rng: np.random.Generator
    ) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Return the secret's pattern and the label, ``insertions`` times."""
        pattern = self._patterns(arrays, canary)[canary.secret]
        copies = np.repeat(pattern[None], canary.insertions, axis=0)
        return copies, np.full(canary.insertions, _label(arrays, canary))

    def probes(self, arrays: Arrays, canary: Canary, secrets: NDArray[np.int64]) -> Probes:
        """Return each candidate pattern with the label."""
        return Probes(
            inputs=self._patterns(arrays, canary)[secrets],
            labels=np.full(len(secrets), _label(arrays, canary)),
            scored=np.ones(len(secrets), dtype=bool),
        )

    def words(self, arrays: Arrays, canary: Canary) -> str:
        """Return for example ``"canary 3: pattern 17 of 100 is class 4"``."""
        label = _label(arrays, canary)
        return (
            f"canary {canary.number}: pattern {canary.secret} of {self.candidates} is class {label}"
        )

    def _patterns(self, arrays: Arrays, canary: Canary) -> NDArray[np.generic]:
        """Return all patterns of a canary, ``[candidates, *features]``."""
        rng = numpy_stream(canary.seed, "canary patterns", client=canary.number)
        drawn = [
            random_tiles(arrays.test_inputs, cells=self.cells, rng=rng)
            for _ in range(self.candidates)
        ]
        return np.stack(drawn)


def _label(arrays: Arrays, canary: Canary) -> int:
    rng = numpy_stream(canary.seed, "canary label", client=canary.number)
    return int(rng.integers(arrays.n_classes))
