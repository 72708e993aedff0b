"""MNIST and Fashion-MNIST are found in every usual layout; damaged files are named."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import struct
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from fedkd.data import idx
from fedkd.data.datasets.fashion_mnist import FashionMnist
from fedkd.data.datasets.mnist import Mnist
from fedkd.errors import ConfigError, MissingDataError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_idx_set(folder: Path, *, packed: bool = False, labels: np.ndarray | None = None):
    folder.mkdir(parents=True, exist_ok=True)
    train = rng().integers(0, 256, (20, 4, 5), dtype=np.uint8)
    content = (
        train,
        np.arange(20, dtype=np.uint8) % 10 if labels is None else labels,
        train[:7],
        np.arange(7, dtype=np.uint8),
    )
    for name, array in zip(idx.NAMES, content, strict=True):
        raw = idx_bytes(array)
        path = folder / (name + ".gz" if packed else name)
        path.write_bytes(gzip.compress(raw) if packed else raw)
    return train


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("cls", "folder"),
    [
        (FashionMnist, "FashionMNIST/raw"),
        (FashionMnist, "fashion-mnist"),
        (FashionMnist, "."),
        (Mnist, "MNIST/raw"),
        (Mnist, "."),
    ],
)
def test_idx_layouts(tmp_path, cls, folder, packed):
    train = write_idx_set(tmp_path / folder, packed=packed)
    arrays = cls(root=str(tmp_path)).load()
    assert np.array_equal(arrays.train_inputs, train[:, None])
    assert arrays.input_shape == (1, 4, 5)
    assert arrays.train_labels.tolist() == [*range(10), *range(10)]
    assert arrays.test_labels.tolist() == list(range(7))
    assert arrays.n_classes == 10
    assert len(cls(root=str(tmp_path), limit=10).load().train_labels) == 10


def test_idx_root_may_come_from_the_environment_but_bare_files_may_not(tmp_path):
    # MNIST and Fashion-MNIST use the same names: bare files say nothing about which set they are.
    write_idx_set(tmp_path / "from_env")
    with pytest.raises(MissingDataError):
        Mnist().load()
    write_idx_set(tmp_path / "from_env" / "MNIST" / "raw")
    assert len(Mnist().load().test_labels) == 7
    with pytest.raises(MissingDataError):
        FashionMnist().load()


def test_idx_checksums_are_reported(tmp_path):
    train = write_idx_set(tmp_path, packed=True)
    found = hashlib.md5(idx_bytes(train)).hexdigest()
    odd = FashionMnist(root=str(tmp_path)).check()
    assert odd.present
    assert f"train-images-idx3-ubyte is {found}, published is f4a8712d" in odd.detail
    plain = Mnist(root=str(tmp_path)).check()
    assert (
        f"20 train, 7 test, 10 classes, uint8 [1, 4, 5]; MD5 train-images-idx3-ubyte {found}"
        in (plain.detail)
    )


def test_missing_idx_files_say_what_where_and_how(tmp_path):
    with pytest.raises(MissingDataError) as error:
        FashionMnist(root=str(tmp_path)).load()
    text = str(error.value)
    for part in (
        *idx.NAMES,
        "apt-get install dataset-fashion-mnist",
        str(tmp_path / "FashionMNIST"),
    ):
        assert part in text
    assert "f4a8712d7a061bf5bd6d2ca38dc4d50a" in text
    assert FashionMnist(root=str(tmp_path)).check().detail == text
    with pytest.raises(MissingDataError, match=r"train-images-idx3-ubyte\.gz"):
        Mnist().load()


def test_only_the_absent_file_is_named(tmp_path):
    write_idx_set(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / idx.NAMES[3]).unlink()
    with pytest.raises(MissingDataError, match=r"missing t10k-labels-idx1-ubyte\[\.gz\]\. Put"):
        Mnist(root=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-1], "415 bytes, but its header"),
        (lambda raw: raw + b"x", "417 bytes, but its header"),
        (lambda raw: raw[:9], "header cut off"),
        (lambda raw: b"", "starts with nothing"),
        (lambda raw: b"\0\0\x0d\3" + raw[4:], "starts with 00000d03, not with 00000803"),
        (lambda raw: raw[:3] + b"\1" + raw[4:], "starts with 00000801"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "but its header"),
        (lambda raw: gzip.compress(raw)[:-9], "damaged gzip"),
        (lambda raw: gzip.compress(raw)[:12] + b"zz" + gzip.compress(raw)[14:], "train-images"),
        (lambda raw: raw[:4] + struct.pack(">3I", 20, 5, 4) + raw[16:], "different sets"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, change, message):
    write_idx_set(tmp_path)
    path = tmp_path / idx.NAMES[0]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match=message) as error:
        Mnist(root=str(tmp_path)).load()
    assert str(tmp_path) in str(error.value)
    assert not Mnist(root=str(tmp_path)).check().present


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(20, 10, dtype=np.uint8), r"label 10 is not in 0\.\.9"),
        (np.zeros(19, dtype=np.uint8), "19 labels for 20 images"),
    ],
)
def test_idx_labels_are_checked(tmp_path, labels, message):
    write_idx_set(tmp_path, labels=labels)
    with pytest.raises(ConfigError, match=message):
        Mnist(root=str(tmp_path)).load()


def script():
    path = Path(__file__).parents[3] / "scripts" / "build_fashion_mini.py"
    spec = importlib.util.spec_from_file_location("build_fashion_mini", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_build_script_refuses_other_files(tmp_path):
    write_idx_set(tmp_path)
    with pytest.raises(SystemExit, match="expected f4a8712d7a061bf5bd6d2ca38dc4d50a"):
        script().build(str(tmp_path), tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


FULL = Path(os.environ.get("FEDKD_DATA", "/usr/share/datasets")) / "fashion-mnist"


@pytest.mark.slow
@pytest.mark.skipif(not FULL.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_build_script_makes_the_shipped_file_again(tmp_path):
    # Compares arrays: another zlib may compress the same content to other bytes.
    script().build(str(FULL), tmp_path / "out.npz")
    shipped = Path(str(resources.files("fedkd.data").joinpath("fashion_mini.npz")))
    with np.load(tmp_path / "out.npz") as built, np.load(shipped) as kept:
        assert built.files == kept.files
        assert all(np.array_equal(built[key], kept[key]) for key in kept.files)
