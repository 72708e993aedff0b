"""Your own data from one NumPy file with x_train, y_train, x_test and y_test."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from fedkd.data.datasets.base import Arrays, DataSet, Presence, counts_of, datasets, presence
from fedkd.data.subset import class_codes, limited
from fedkd.errors import ConfigError, MissingDataError

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_CHANNELS = (1, 3)


@datasets.register("npz")
@dataclass(frozen=True)
class Npz(DataSet):
    """The file ``root``, written by ``np.savez(root, x_train=..., y_train=..., ...)``.

    Inputs are ``[n, height, width]``, ``[n, height, width, channels]`` or ``[n, channels, height,
    width]`` with 1 or 3 channels, or a table ``[n, columns]``. Integers are images and must lie
    in 0..255; floats are used as they are, so scale them yourself. A table always becomes
    float32. Labels are integers or strings; classes are numbered in sorted order. Arrays of
    Python objects are refused, so nothing in the file is executed.
    """

    limit: Annotated[int, Ge(1)] | None = None
    root: str | None = None

    def load(self) -> Arrays:
        """Read and convert the four arrays."""
        path = self._path()
        raw = _read(path)
        for part in ("train", "test"):
            n_inputs, n_labels = len(raw[f"x_{part}"]), raw[f"y_{part}"].size
            if n_inputs != n_labels or n_inputs == 0:
                raise ConfigError(f"{path}: {n_labels} labels for {n_inputs} inputs in x_{part}")
        train, test = (_inputs(raw[key], where=f"{path}: {key}") for key in ("x_train", "x_test"))
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise ConfigError(
                f"{path}: x_train is {train.dtype} {train.shape[1:]}, x_test is {test.dtype} "
                f"{test.shape[1:]}; make them alike"
            )
        y_train, y_test = (
            _labels(raw[key], where=f"{path}: {key}") for key in ("y_train", "y_test")
        )
        if (y_train.dtype.kind in "iu") != (y_test.dtype.kind in "iu"):
            raise ConfigError(f"{path}: y_train is {y_train.dtype}, y_test is {y_test.dtype}")
        train_labels, test_labels, n_classes = class_codes(y_train, y_test)
        arrays = Arrays(
            train_inputs=train,
            train_labels=train_labels,
            test_inputs=test,
            test_labels=test_labels,
            n_classes=n_classes,
        )
        return limited(arrays, self.limit)

    def check(self) -> Presence:
        """Count rows."""
        return presence(lambda: f"{counts_of(self.load())}; {self._path()}")

    def _path(self) -> Path:
        if self.root is None:
            raise MissingDataError(f"npz: set root to your file; it needs {', '.join(_KEYS)}")
        path = Path(self.root).expanduser()
        if not path.is_file():
            raise MissingDataError(
                f"npz: there is no file {path}; write it with np.savez, keys {', '.join(_KEYS)}"
            )
        return path


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    if not zipfile.is_zipfile(path):
        raise ConfigError(f"{path}: not an .npz file; write it with np.savez")
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {key: stored[key] for key in stored.files if key in _KEYS}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path}: not a plain .npz file ({error})") from None
    absent = [key for key in _KEYS if key not in found]
    if absent:
        raise ConfigError(f"{path}: no {', '.join(absent)} in it; write it with np.savez")
    return found


def _inputs(raw: NDArray[np.generic], *, where: str) -> NDArray[np.generic]:
    if raw.dtype.kind not in "iuf" or raw.ndim not in (2, 3, 4):
        raise ConfigError(f"{where}: {raw.dtype} {raw.shape}; give 2 to 4 dimensions of numbers")
    values = (
        raw.astype(np.float32, copy=False)
        if raw.ndim == 2 or raw.dtype.kind == "f"
        else _bytes(raw, where)
    )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ConfigError(f"{where}: contains values that are not finite; replace or drop them")
    if values.ndim == 3:
        return values[:, None]
    return values if values.ndim == 2 else _channels_first(values, where)


def _bytes(raw: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    low, high = raw.min(), raw.max()
    if low < 0 or high > 255:
        raise ConfigError(f"{where}: integers {low}..{high}; images need 0..255 (or floats)")
    return raw.astype(np.uint8, copy=False)


def _channels_first(values: NDArray[np.generic], where: str) -> NDArray[np.generic]:
    first, last = values.shape[1] in _CHANNELS, values.shape[3] in _CHANNELS
    if first == last:
        raise ConfigError(
            f"{where}: {values.shape}; exactly one of the second and the last dimension must be "
            "1 or 3 (channels)"
        )
    return values if first else np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _labels(raw: NDArray[np.generic], *, where: str) -> NDArray[np.generic]:
    if raw.dtype.kind not in "iuUS" or raw.size != len(raw):
        raise ConfigError(f"{where}: {raw.dtype} {raw.shape}; give one integer or string a row")
    return raw.reshape(-1)
