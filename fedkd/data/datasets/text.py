"""Your own text from a folder of UTF-8 files, one for each author, person or device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from fedkd.data.characters import Codes, codes, folded, windowed
from fedkd.data.datasets.base import Arrays, DataSet, Presence, counts_of, datasets, presence
from fedkd.data.subset import limited
from fedkd.errors import ConfigError, MissingDataError

MIN_KEPT = 0.8
"""Least share of a file's visible characters that the alphabet must have."""


@datasets.register("text")
@dataclass(frozen=True)
class Text(DataSet):
    """The files ``*.txt`` of the folder ``root``, in order of their names; one is one stratum.

    Windows of characters, int16 ``[n, window]``, in the alphabet of all text data sets
    (``fedkd/data/characters.py``): accents are dropped, and so is what has no place in it.

    Attributes:
        limit: training windows in all, spread over the files.
        root: the folder.
        window: characters of an input.
        test_fraction: share at the end of every file that becomes the server's test set.
    """

    tokens: ClassVar[bool] = True
    limit: Annotated[int, Ge(1)] | None = None
    root: str | None = None
    window: Annotated[int, Ge(2)] = 48
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1

    def load(self) -> Arrays:
        """Read all files and cut them into windows."""
        texts = [(path.name, _read(path)) for path in self._files()]
        arrays = windowed(texts, window=self.window, test_fraction=self.test_fraction)
        return limited(arrays, self.limit)

    def check(self) -> Presence:
        """Count rows and files."""
        return presence(
            lambda: f"{counts_of(self.load())}; {len(self._files())} files in {self.root}"
        )

    def _files(self) -> list[Path]:
        if self.root is None:
            raise MissingDataError("text: set root to your folder of UTF-8 files called *.txt")
        folder = Path(self.root).expanduser()
        if not folder.is_dir():
            raise MissingDataError(f"text: there is no folder {folder}; set root to yours")
        files = sorted(folder.glob("*.txt"))
        if not files:
            raise MissingDataError(f"text: no file *.txt in {folder}; put one a person there")
        return files


def _read(path: Path) -> Codes:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8, for example with "
            f"'iconv -f latin1 -t utf8 {path.name}'"
        ) from None
    known = folded(text)
    visible, kept = len("".join(text.split())), len("".join(known.split()))
    if kept < MIN_KEPT * visible:
        raise ConfigError(
            f"{path}: only {kept} of {visible} characters are letters, digits or marks of the "
            "alphabet of text data sets; transliterate the text first"
        )
    return codes(known)
