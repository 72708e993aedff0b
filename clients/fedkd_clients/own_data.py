"""A client's own examples, read from a file on its device instead of shared out by the scenario.

They must look like the scenario's: the same input shape and the same classes, which the model and
the proxy set are made for.
"""

from __future__ import annotations

import importlib.util
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedkd.data.datasets.base import Arrays
from fedkd.data.datasets.csv import Csv, read_table
from fedkd.data.federation import load
from fedkd.errors import ConfigError, MissingDataError
from fedkd.methods.base import Holding
from fedkd.rng import numpy_stream
from fedkd.scenario import Scenario
from fedkd.training.steps import Examples
from fedkd_clients.private_data import PrivateData, private_data

Labels = NDArray[np.int64]
Raw = tuple[NDArray[np.generic], NDArray[np.generic]]
IDS_APART = 2**32
"""Proxy ids of client c begin at ``(c + 1) * IDS_APART``: no row of a data set is so far out."""
_PICTURES = frozenset({".png", ".jpg", ".jpeg"})
_LEAST_FOR_TEST = 10


def held_by(scenario: Scenario, client: int, *, own: str, device: torch.device) -> PrivateData:
    """Return what a client holds: its ``own`` file's examples, or its share of the scenario's."""
    if own:
        return own_data(scenario, client, Path(own), device=device)
    return private_data(scenario, client, device=device)


def own_data(scenario: Scenario, client: int, path: Path, *, device: torch.device) -> PrivateData:
    """Return what a client holds, from its own file.

    Raises:
        MissingDataError: there is no such file.
        ConfigError: the file cannot be read, or its examples do not fit the scenario.
    """
    _check_scenario(scenario, path)
    arrays = load(scenario.data)
    inputs, labels = read_examples(path, arrays, client=client)
    seed, n = scenario.partition_seed(), len(labels)
    order = numpy_stream(seed, "own local test", client=client).permutation(n)
    n_test = math.floor(scenario.local_test_fraction * n) if n >= _LEAST_FOR_TEST else 0
    test, train = order[:n_test], order[n_test:]
    given = np.zeros(len(train), dtype=bool)
    rng = numpy_stream(seed, "contribution", client=client)
    given[scenario.proxy.contribution(len(train), rng=rng)] = True

    def examples(rows: NDArray[np.int64]) -> Examples:
        return Examples(
            inputs=torch.from_numpy(inputs[rows]).to(device),
            labels=torch.from_numpy(labels[rows]).to(device),
        )

    return PrivateData(
        train=examples(train),
        contributed=torch.from_numpy(given),
        ids=torch.from_numpy(train + (client + 1) * IDS_APART),
        local_test=examples(test),
    )


def read_examples(path: Path, like: Arrays, *, client: int) -> tuple[NDArray[np.generic], Labels]:
    """Return inputs and labels in the form of ``like``.

    ``path`` is an ``.npz`` file with ``x`` and ``y`` (or ``x_train`` and ``y_train``), a ``.csv``
    table with a column ``label``, a folder ``<class>/*.png``, or a ``.py`` file of yours with
    ``examples(client)`` that returns inputs and labels.
    """
    if not path.exists():
        raise MissingDataError(f"data: there is no {str(path)!r}; name your file with --data")
    kind = "folder" if path.is_dir() else path.suffix.lower()
    if kind == "folder":
        inputs, labels = _read_folder(path, like)
    elif kind == ".npz":
        inputs, labels = _read_npz(path)
    elif kind == ".csv":
        inputs, labels = read_table(path, "label")
        inputs = inputs.astype(np.float32)
    elif kind == ".py":
        inputs, labels = _call_hook(path, client)
    else:
        raise ConfigError(f"data: {str(path)!r} is no .npz, .csv, .py or folder of pictures")
    if len(inputs) != len(labels) or len(labels) == 0:
        raise ConfigError(f"{path}: {len(labels)} labels for {len(inputs)} inputs")
    return _inputs_like(inputs, like, path), _labels_like(labels, like, path)


def _check_scenario(scenario: Scenario, path: Path) -> None:
    if scenario.canaries is not None:
        raise ConfigError("canaries: they are planted in a scenario's data, not in your own; null")
    if scenario.method.holding is not Holding.OWN:
        raise ConfigError("method: this control pools the clients' data, which stays with them")
    if path.suffix.lower() == ".csv" and isinstance(scenario.data, Csv):
        raise ConfigError(
            f"{path}: the scenario's table is standardized with the server's rows, yours would not "
            "be; scale it with the same means and deviations and give it as .npz"
        )


def _read_npz(path: Path) -> Raw:
    if not zipfile.is_zipfile(path):
        raise ConfigError(f"{path}: not an .npz file; write it with np.savez(path, x=..., y=...)")
    try:
        with np.load(path, allow_pickle=False) as stored:
            for x, y in (("x", "y"), ("x_train", "y_train")):
                if x in stored.files and y in stored.files:
                    return stored[x], stored[y]
            found = ", ".join(stored.files)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not a plain .npz file ({error})") from None
    raise ConfigError(f"{path}: holds {found or 'nothing'}; write it with x=... and y=...")


def _read_folder(path: Path, like: Arrays) -> Raw:
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError(f"{path}: pictures need Pillow; 'pip install pillow'") from None
    mode = "L" if like.input_shape[0] == 1 else "RGB"
    inputs: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    for picture in sorted(path.glob("*/*")):
        if picture.suffix.lower() not in _PICTURES:
            continue
        try:
            with Image.open(picture) as opened:
                pixels = np.asarray(opened.convert(mode), dtype=np.uint8)
        except (OSError, ValueError, SyntaxError) as error:
            raise ConfigError(f"{picture}: not a readable picture ({error})") from None
        inputs.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
        labels.append(picture.parent.name)
        if inputs[-1].shape != like.input_shape:
            raise ConfigError(
                f"{picture}: {inputs[-1].shape} (channels, height, width), the scenario has "
                f"{like.input_shape}; resize it"
            )
    if not inputs:
        raise ConfigError(f"{path}: no .png or .jpg in folders of it; lay out <class>/*.png")
    return np.stack(inputs), np.array(labels)


def _call_hook(path: Path, client: int) -> Raw:
    spec = importlib.util.spec_from_file_location("fedkd_own_data", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hook = getattr(module, "examples", None)
    if not callable(hook):
        raise ConfigError(f"{path}: no function examples(client) that returns inputs and labels")
    returned = hook(client)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ConfigError(f"{path}: examples({client}) gave no pair of inputs and labels")
    return np.asarray(returned[0]), np.asarray(returned[1])


def _inputs_like(raw: NDArray[np.generic], like: Arrays, path: Path) -> NDArray[np.generic]:
    wanted = like.train_inputs.dtype
    if raw.ndim == 3 and len(like.input_shape) == 3 and like.input_shape[0] == 1:
        raw = raw[:, None]
    if raw.shape[1:] != like.input_shape:
        raise ConfigError(
            f"{path}: one input is {raw.shape[1:]}, the scenario has {like.input_shape}; reshape "
            "it (channels first)"
        )
    if raw.dtype.kind not in ("iu" if wanted.kind in "iu" else "iuf"):
        raise ConfigError(
            f"{path}: inputs are {raw.dtype}, the scenario has {wanted}; convert them"
        )
    if wanted.kind in "iu":
        low, high, most = int(raw.min()), int(raw.max()), int(np.iinfo(wanted.name).max)
        if low < 0 or high > most:
            raise ConfigError(f"{path}: inputs {low}..{high}; the scenario has {wanted}, 0..{most}")
    values = np.ascontiguousarray(raw.astype(wanted))
    if wanted.kind == "f" and not np.isfinite(values).all():
        raise ConfigError(f"{path}: inputs that are not finite; replace or drop them")
    return values


def _labels_like(raw: NDArray[np.generic], like: Arrays, path: Path) -> Labels:
    if raw.shape[1:] != like.train_labels.shape[1:]:
        raise ConfigError(f"{path}: labels are {raw.shape}; give one a row")
    if raw.dtype.kind in "US":
        raw = np.array([_number(str(name), like, path) for name in raw.astype(str)])
    if raw.dtype.kind not in "iu":
        raise ConfigError(f"{path}: labels are {raw.dtype}; give integers or names")
    labels = raw.astype(np.int64)
    if labels.min() < 0 or labels.max() >= like.n_classes:
        found = f"{labels.min()}..{labels.max()}"
        raise ConfigError(f"{path}: labels {found}; the scenario has 0..{like.n_classes - 1}")
    return labels


def _number(name: str, like: Arrays, path: Path) -> int:
    """Return a class's number. Names are never numbered by sorting: a client may lack a class."""
    if name in like.words:
        return like.words.index(name)
    if name.isdecimal():
        return int(name)
    known = f"one of {', '.join(like.words[:10])}" if like.words else "a number"
    raise ConfigError(f"{path}: class {name!r}; name it by {known}, 0..{like.n_classes - 1}")
