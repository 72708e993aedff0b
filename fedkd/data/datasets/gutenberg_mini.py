"""Fifty thousand characters of each of eight authors, shipped inside the package: real text.

All are in the public domain; cut from the texts of Project Gutenberg without its headers.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from fedkd.data.characters import codes, windowed
from fedkd.data.datasets.base import Arrays, DataSet, Presence, counts_of, datasets, presence
from fedkd.data.shipped import verified
from fedkd.data.subset import limited

FILE = "gutenberg_mini.npz"
SHA256 = "477b788ea767486c0c8a63b59757a449e37adad46d7bfdd96fc9adbed30bfdcd"
"""Of the file that ``scripts/build_gutenberg_mini.py`` wrote."""
SCRIPT = "scripts/build_gutenberg_mini.py"
TEST_FRACTION = 0.1


@datasets.register("gutenberg_mini")
@dataclass(frozen=True)
class GutenbergMini(DataSet):
    """Windows of characters, int16 ``[n, window]``; strata are the authors.

    Austen, Carroll, Chesterton, Edgeworth, Melville, Milton, Shakespeare and Whitman, in this
    order. The last tenth of each one's text is the test set. Which books:
    ``fedkd/data/gutenberg_mini.LICENSE``.

    Attributes:
        limit: training windows in all, equally many of each author.
        window: characters of an input.
    """

    tokens: ClassVar[bool] = True
    limit: Annotated[int, Ge(1)] | None = None
    window: Annotated[int, Ge(2)] = 48

    def load(self) -> Arrays:
        """Read the package's own file."""
        with np.load(
            io.BytesIO(verified(FILE, sha256=SHA256, script=SCRIPT)), allow_pickle=False
        ) as stored:
            texts = [
                (str(author), codes(characters.tobytes().decode("ascii")))
                for author, characters in zip(stored["authors"], stored["texts"], strict=True)
            ]
        arrays = windowed(texts, window=self.window, test_fraction=TEST_FRACTION)
        return limited(arrays, self.limit)

    def check(self) -> Presence:
        """Count rows and verify the checksum."""
        return presence(lambda: f"{counts_of(self.load())}; sha256 {SHA256} verified")
