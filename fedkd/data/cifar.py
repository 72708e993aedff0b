"""Reading CIFAR-10 batches, the pickled ones without executing a pickle.

The Python version of CIFAR-10 is a set of pickles, and unpickling a file runs whatever program
its author put there. Here the file is only tokenised (:func:`pickletools.genops` executes
nothing), and a file with any token that the published batches do not need is refused.
"""

from __future__ import annotations

import pickletools  # nosec B403  # lists opcodes, runs none
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkd.errors import ConfigError

SHAPE = (3, 32, 32)
N_CLASSES = 10

_N_BYTES = 3072
_TEXT = frozenset({"SHORT_BINSTRING", "BINSTRING"})
_INTEGER = frozenset({"BININT", "BININT1", "BININT2"})
_TRUTH = frozenset({"NEWFALSE", "NEWTRUE"})
_MEMO = frozenset({"PROTO", "BINPUT", "LONG_BINPUT"})
_LIST = frozenset({"EMPTY_LIST", "MARK", "APPEND", "APPENDS"})
_TUPLE = frozenset({"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_DICT = frozenset({"EMPTY_DICT", "SETITEM", "SETITEMS"})
_OBJECT = frozenset({"GLOBAL", "REDUCE", "BUILD", "NONE", "BINGET", "LONG_BINGET", "STOP"})
_ALLOWED = _TEXT | _INTEGER | _TRUTH | _MEMO | _LIST | _TUPLE | _DICT | _OBJECT
_ARRAY = frozenset({"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"})
_GLOBALS = _ARRAY | {"numpy ndarray", "numpy dtype"}

Token = tuple[str, object]
Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images ``[n, 3, 32, 32]`` and labels ``[n]``."""


def read_binary(path: Path) -> Batch:
    """Read one batch of the binary version; ConfigError when it is not one."""
    content = path.read_bytes()
    if not content or len(content) % (1 + _N_BYTES):
        raise ConfigError(
            f"{path}: {len(content)} bytes are not a multiple of {1 + _N_BYTES}, the size of a "
            "record; get the file again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + _N_BYTES)
    labels = records[:, 0].astype(np.int64)
    return records[:, 1:].reshape(-1, *SHAPE), _checked(labels, n=len(records), path=path)


def read_pickled(path: Path) -> Batch:
    """Read one batch of the Python version without unpickling it.

    Raises:
        ConfigError: the file holds anything but what the published batches hold.
    """
    tokens = _tokens(path)
    images = _images(tokens, path=path)
    labels = np.array(_labels(tokens, path=path), dtype=np.int64)
    return images, _checked(labels, n=len(images), path=path)


def _tokens(path: Path) -> list[Token]:
    try:
        found = [(opcode.name, arg) for opcode, arg, _ in pickletools.genops(path.read_bytes())]
    except ValueError as error:
        raise ConfigError(f"{path}: damaged pickle ({error}); get the file again") from None
    for name, arg in found:
        if name not in _ALLOWED or (name == "GLOBAL" and arg not in _GLOBALS):
            raise ConfigError(
                f"{path}: refused, it contains {name} {_short(arg)}, which no CIFAR-10 batch "
                "needs; nothing was executed. Get the file from its publisher again"
            )
    return [token for token in found if token[0] not in _MEMO]


def _images(tokens: list[Token], *, path: Path) -> NDArray[np.uint8]:
    start = _position(tokens, "data", "GLOBAL", path=path)
    if tokens[start][1] not in _ARRAY:
        raise ConfigError(f"{path}: 'data' is {_short(tokens[start][1])}, not an array")
    for (flag, _), token in pairwise(tokens[start:]):
        raw = _raw(token)
        if flag in _TRUTH and raw and len(raw) % _N_BYTES == 0:
            flat = np.frombuffer(raw, dtype=np.uint8)
            by_column = flag == "NEWTRUE"
            table = flat.reshape(_N_BYTES, -1).T if by_column else flat.reshape(-1, _N_BYTES)
            return np.ascontiguousarray(table).reshape(-1, *SHAPE)
    raise ConfigError(f"{path}: no block of {_N_BYTES} bytes an image after 'data'")


def _labels(tokens: list[Token], *, path: Path) -> list[int]:
    start = _position(tokens, "labels", "EMPTY_LIST", path=path)
    labels: list[int] = []
    for name, arg in tokens[start:]:
        if name in _INTEGER and isinstance(arg, int):
            labels.append(arg)
        elif name not in _LIST:
            break
    return labels


def _position(tokens: list[Token], key: str, value: str, *, path: Path) -> int:
    hits = [
        i
        for i in range(1, len(tokens))
        if tokens[i][0] == value and _raw(tokens[i - 1]) == key.encode()
    ]
    if len(hits) != 1:
        raise ConfigError(f"{path}: key {key!r} occurs {len(hits)} times, not once; not a batch")
    return hits[0]


def _raw(token: Token) -> bytes | None:
    name, arg = token
    # genops hands byte strings out decoded as latin-1, one character a byte.
    return arg.encode("latin-1") if name in _TEXT and isinstance(arg, str) else None


def _checked(labels: NDArray[np.int64], *, n: int, path: Path) -> NDArray[np.int64]:
    if len(labels) != n:
        raise ConfigError(f"{path}: {len(labels)} labels for {n} images; get the file again")
    if labels.min() < 0 or labels.max() >= N_CLASSES:
        odd = labels[(labels < 0) | (labels >= N_CLASSES)][0]
        raise ConfigError(f"{path}: label {odd} is not in 0..{N_CLASSES - 1}")
    return labels


def _short(arg: object) -> str:
    text = repr(arg)
    return text if len(text) <= 60 else text[:57] + "..."
