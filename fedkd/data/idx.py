"""Reading the idx files in which MNIST and its relatives are published."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkd.data.datasets.base import Arrays, search_roots
from fedkd.errors import ConfigError, MissingDataError

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The four files of a set, without the ``.gz`` they may have."""

_UINT8 = 8


@dataclass(frozen=True, kw_only=True)
class IdxSource:
    """One data set in idx files: where it may lie and where to get it.

    Attributes:
        name: as in scenarios.
        folders: below a root, in order of preference; the first is recommended to the user.
        origin: how to get the files, for messages.
        checksums: what is known of the files, for messages.
        md5: MD5 of each uncompressed file in the order of :data:`NAMES`, or empty if not known.
        n_classes: labels are ``0 .. n_classes - 1``.
    """

    name: str
    folders: tuple[str, ...]
    origin: str
    checksums: str
    md5: tuple[str, ...] = ()
    n_classes: int = 10


def unpacked(path: Path) -> bytes:
    """Return the content of a file, decompressed when it is gzip; ConfigError when damaged."""
    raw = path.read_bytes()
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"{path}: damaged gzip file ({error}); get it again") from None


def decode(content: bytes, *, n_dims: int, path: Path) -> NDArray[np.uint8]:
    """Return the array in an idx file of unsigned bytes.

    Args:
        content: the uncompressed file.
        n_dims: dimensions it must have: 3 for images, 1 for labels.
        path: for messages.

    Raises:
        ConfigError: wrong magic number, or a length other than the header announces.
    """
    expected = bytes([0, 0, _UINT8, n_dims])
    if content[:4] != expected:
        raise ConfigError(
            f"{path}: starts with {content[:4].hex() or 'nothing'}, not with {expected.hex()} "
            f"(idx, unsigned bytes, {n_dims} dimensions); get the file again"
        )
    start = 4 + 4 * n_dims
    if len(content) < start:
        raise ConfigError(f"{path}: {len(content)} bytes, header cut off; get the file again")
    shape = [int(size) for size in np.frombuffer(content[4:start], dtype=">u4")]
    n_bytes = start + int(np.prod(shape, dtype=object))
    if len(content) != n_bytes:
        raise ConfigError(
            f"{path}: {len(content)} bytes, but its header {shape} means {n_bytes}; "
            "get the file again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def find_files(source: IdxSource, root: str | None) -> list[Path]:
    """Return the paths of the four files in the order of :data:`NAMES`.

    Looks into ``source.folders`` below each search root, and into ``root`` itself. Bare files
    count in the named ``root`` only, because all sets of the family use the same file names.

    Raises:
        MissingDataError: no folder has all four; says what to get, from where, to where.
    """
    roots = search_roots(root)
    places = [place / folder for place in roots for folder in source.folders]
    if root is not None:
        places.insert(0, roots[0])
    tried = [[_either(place / name) for name in NAMES] for place in places]
    for found in tried:
        complete = [path for path in found if path is not None]
        if len(complete) == len(NAMES):
            return complete
    best = max(range(len(places)), key=lambda i: sum(path is not None for path in tried[i]))
    absent = [name for name, path in zip(NAMES, tried[best], strict=True) if path is None]
    target = places[best] if len(absent) < len(NAMES) else roots[0] / source.folders[0]
    raise MissingDataError(
        f"{source.name}: missing {', '.join(name + '[.gz]' for name in absent)}. "
        f"Put them into {target}, or set root or FEDKD_DATA. Get them: {source.origin}. "
        f"{source.checksums}. Looked into: {', '.join(map(str, places))}"
    )


def load_set(source: IdxSource, root: str | None) -> tuple[Arrays, list[str]]:
    """Read the four files; return the data and the MD5 of each uncompressed file.

    Raises:
        MissingDataError: the files are not there.
        ConfigError: a file is damaged, or images and labels do not match.
    """
    paths = find_files(source, root)
    contents = [unpacked(path) for path in paths]
    sums = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in contents]
    dims = (3, 1, 3, 1)
    parts = [
        decode(content, n_dims=n_dims, path=path)
        for content, n_dims, path in zip(contents, dims, paths, strict=True)
    ]
    for images, labels, path in ((*parts[:2], paths[1]), (*parts[2:], paths[3])):
        _check_labels(labels, n_images=len(images), n_classes=source.n_classes, path=path)
    if parts[0].shape[1:] != parts[2].shape[1:]:
        raise ConfigError(
            f"{paths[2]}: images {parts[2].shape[1:]}, training images {parts[0].shape[1:]}; "
            "the files are of different sets"
        )
    arrays = Arrays(
        train_inputs=parts[0][:, None],
        train_labels=parts[1].astype(np.int64),
        test_inputs=parts[2][:, None],
        test_labels=parts[3].astype(np.int64),
        n_classes=source.n_classes,
    )
    return arrays, sums


def checksum_report(source: IdxSource, sums: list[str]) -> str:
    """Return the MD5 sums of the uncompressed files, each compared with the known one."""
    if not source.md5:
        return "MD5 " + ", ".join(
            f"{name} {found}" for name, found in zip(NAMES, sums, strict=True)
        )
    odd = [
        f"{name} is {found}, published is {known}"
        for name, found, known in zip(NAMES, sums, source.md5, strict=True)
        if found != known
    ]
    if odd:
        return "WARNING, not the published files: MD5 of " + "; ".join(odd)
    return "MD5 of all four files as published"


def _either(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return next((place for place in (path, packed) if place.is_file()), None)


def _check_labels(labels: NDArray[np.uint8], *, n_images: int, n_classes: int, path: Path) -> None:
    if len(labels) != n_images or n_images == 0:
        raise ConfigError(f"{path}: {len(labels)} labels for {n_images} images; get both again")
    if labels.max() >= n_classes:
        raise ConfigError(f"{path}: label {labels.max()} is not in 0..{n_classes - 1}")
