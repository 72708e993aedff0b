"""Your own table from one CSV file with a header and a label column."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from fedkd.data.datasets.base import Arrays, DataSet, Presence, counts_of, datasets, presence
from fedkd.data.subset import class_codes, limited, stratified_split
from fedkd.errors import ConfigError, MissingDataError
from fedkd.registry import did_you_mean


@datasets.register("csv")
@dataclass(frozen=True)
class Csv(DataSet):
    """The file ``root`` (UTF-8, comma separated, a header line); inputs float32 ``[n, columns]``.

    Every column but ``label`` must be numeric and complete. Labels are any text or integers;
    classes are numbered in sorted order. A stratified share ``test_fraction`` of the rows, the
    same in every run, becomes the server's test set.

    Columns are standardised with mean and standard deviation of the test rows only: those are
    the server's own rows, so the scaling uses nothing private. (Statistics of the training rows
    would be a release about every client's data that no ledger has seen.)
    """

    limit: Annotated[int, Ge(1)] | None = None
    root: str | None = None
    label: str = "label"
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2

    def load(self) -> Arrays:
        """Read, split and standardise the table."""
        path = self._path()
        table, names = read_table(path, self.label)
        codes, _, n_classes = class_codes(names, names[:0])
        n_test = round(self.test_fraction * len(codes))
        if n_test < 2 or n_test >= len(codes):
            raise ConfigError(
                f"{path}: test_fraction={self.test_fraction} of {len(codes)} rows gives {n_test} "
                "test rows; at least 2 and one training row are needed"
            )
        train, test = stratified_split(codes, n_test)
        mean, std = table[test].mean(axis=0), table[test].std(axis=0)
        scaled = ((table - mean) / np.where(std > 0, std, 1.0)).astype(np.float32)
        arrays = Arrays(
            train_inputs=scaled[train],
            train_labels=codes[train],
            test_inputs=scaled[test],
            test_labels=codes[test],
            n_classes=n_classes,
        )
        return limited(arrays, self.limit)

    def check(self) -> Presence:
        """Count rows."""
        return presence(lambda: f"{counts_of(self.load())}; {self._path()}")

    def _path(self) -> Path:
        if self.root is None:
            raise MissingDataError(
                f"csv: set root to your file; it needs a header and a column {self.label!r}"
            )
        path = Path(self.root).expanduser()
        if not path.is_file():
            raise MissingDataError(f"csv: there is no file {path}; set root to your file")
        return path


def read_table(path: Path, label: str) -> tuple[NDArray[np.float64], NDArray[np.generic]]:
    """Return the numbers ``[n, columns]`` and the labels ``[n]`` (integers if all are)."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            empty: list[str] = []
            header = [name.strip() for name in next(reader, empty)]
            at = _label_position(header, label, path=path)
            rows: list[list[float]] = []
            names: list[str] = []
            for cells in reader:
                if not cells:
                    continue
                where = f"{path}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise ConfigError(f"{where}: {len(cells)} cells, the header has {len(header)}")
                pairs = list(zip(header, cells, strict=True))
                names.append(_filled(*pairs.pop(at), where=where))
                rows.append([_number(name, cell, where=where) for name, cell in pairs])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a UTF-8 CSV file ({error}); save it as one") from None
    if not rows:
        raise ConfigError(f"{path}: no rows below the header")
    return np.array(rows, dtype=np.float64), _integers_if_all(names)


def _label_position(header: list[str], label: str, *, path: Path) -> int:
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise ConfigError(f"{path}: column {min(twice)!r} occurs twice; rename one")
    if label not in header:
        raise ConfigError(f"{path}: no label column {label!r}{did_you_mean(label, header)}")
    if len(header) < 2:
        raise ConfigError(f"{path}: only the column {label!r}; there is nothing to learn from")
    return header.index(label)


def _filled(column: str, cell: str, *, where: str) -> str:
    text = cell.strip()
    if not text:
        raise ConfigError(f"{where}: column {column!r} is empty; fill or drop the row first")
    return text


def _number(column: str, cell: str, *, where: str) -> float:
    text = _filled(column, cell, where=where)
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(
            f"{where}: column {column!r} holds {text!r}, not a number; encode or drop the column"
        ) from None
    if not math.isfinite(value):
        raise ConfigError(f"{where}: column {column!r} holds {text!r}; fill or drop the row first")
    return value


def _integers_if_all(names: list[str]) -> NDArray[np.generic]:
    try:
        return np.array([int(name) for name in names], dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array(names)
