"""CIFAR-10 is read from three layouts, and its pickles are never executed."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedkd.data.datasets.base import Arrays
from fedkd.data.datasets.cifar10 import Cifar10
from fedkd.errors import ConfigError, MissingDataError

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def cifar_batch(seed: int, n: int = 4) -> tuple[np.ndarray, list[int]]:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (n, 3072), dtype=np.uint8)
    return images, generator.integers(0, 10, n).tolist()


def short(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def protocol_2(
    images: np.ndarray, labels: list[int], *, key: bytes = b"labels", by_column: bool = False
) -> bytes:
    """Write what Python 2 wrote in 2009: opcode for opcode the published batches."""
    raw = np.asarray(images).tobytes("F" if by_column else "C")
    n = len(images)
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            short(b"batch_label") + b"q\x02" + short(b"training batch 1 of 5") + b"q\x03",
            short(key) + b"q\x04]q\x05(" + b"".join(b"K" + bytes([x]) for x in labels) + b"e",
            short(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07",
            b"cnumpy\nndarray\nq\x08K\x00\x85" + short(b"b") + b"\x87Rq\t(K\x01",
            b"M" + struct.pack("<H", n) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nq\n" + short(b"u1") + b"K\x00K\x01\x87Rq\x0b(K\x03",
            short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            (b"\x88" if by_column else b"\x89") + b"T" + struct.pack("<i", len(raw)) + raw + b"tb",
            short(b"filenames") + b"q\x0c]q\r(" + (short(b"a.png") + b"r\x0e\x01\x00\x00") * n,
            b"eu.",
        ]
    )


def write_cifar_py(folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        (folder / name).write_bytes(protocol_2(*cifar_batch(seed)))


def expect_cifar(arrays: Arrays) -> None:
    batches = [cifar_batch(seed) for seed in range(6)]
    train = np.concatenate([images for images, _ in batches[:5]])
    assert np.array_equal(arrays.train_inputs, train.reshape(-1, 3, 32, 32))
    assert np.array_equal(arrays.test_inputs, batches[5][0].reshape(-1, 3, 32, 32))
    assert arrays.train_labels.tolist() == [x for _, labels in batches[:5] for x in labels]
    assert arrays.test_labels.tolist() == batches[5][1]
    assert arrays.train_labels.dtype == np.int64
    assert arrays.n_classes == 10


def test_the_handmade_pickle_is_a_real_one():
    images, labels = cifar_batch(0)
    for by_column in (False, True):
        loaded = pickle.loads(protocol_2(images, labels, by_column=by_column), encoding="latin1")
        assert loaded["labels"] == labels
        assert np.array_equal(loaded["data"], images)


@pytest.mark.parametrize("where", ["cifar-10-batches-py", "."])
def test_cifar_python_version(tmp_path, where):
    write_cifar_py(tmp_path / "r" / where)
    data = Cifar10(root=str(tmp_path / "r"))
    expect_cifar(data.load())
    assert "MD5 data_batch_1 " in data.check().detail


def test_cifar_python_version_stored_by_column(tmp_path):
    write_cifar_py(tmp_path / "cifar-10-batches-py")
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(protocol_2(*cifar_batch(1), by_column=True))
    expect_cifar(Cifar10(root=str(tmp_path)).load())


def write_cifar_bin(folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        images, labels = cifar_batch(seed)
        records = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], images], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def test_cifar_binary_version(tmp_path):
    write_cifar_bin(tmp_path / "cifar-10-batches-bin")
    expect_cifar(Cifar10(root=str(tmp_path)).load())


class Attack:
    """Unpickling an instance creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        """Make pickle run a shell command."""
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar_pickles_are_never_executed(tmp_path, protocol):
    folder, target = tmp_path / "cifar-10-batches-py", tmp_path / "executed"
    write_cifar_py(folder)
    images, labels = cifar_batch(0)
    attack = pickle.dumps(Attack(target), protocol=protocol)
    alone = attack
    # The attack first, popped from the stack; then a batch as published.
    hidden = attack[:-1] + b"0" + protocol_2(images, labels)[2:]
    pickle.loads(alone)
    assert target.exists()  # the attack works where somebody unpickles
    target.unlink()
    for content in (alone, hidden):
        (folder / "data_batch_3").write_bytes(content)
        with pytest.raises(ConfigError, match=r"data_batch_3: refused.*nothing was executed"):
            Cifar10(root=str(tmp_path)).load()
        assert not Cifar10(root=str(tmp_path)).check().present
    assert not target.exists()


def test_cifar_refuses_a_system_call_among_allowed_opcodes(tmp_path):
    folder, target = tmp_path / "cifar-10-batches-py", tmp_path / "executed"
    write_cifar_py(folder)
    call = b"cposix\nsystem\n" + short(f"touch {target}".encode()[:255]) + b"\x85R"
    batch = protocol_2(*cifar_batch(0))
    (folder / "data_batch_1").write_bytes(batch[:-2] + short(b"extra") + call + b"u.")
    with pytest.raises(ConfigError, match=r"GLOBAL 'posix system'"):
        Cifar10(root=str(tmp_path)).load()
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (protocol_2(*cifar_batch(0))[:-40], "damaged pickle"),
        (b"", "damaged pickle"),
        (protocol_2(*cifar_batch(0), key=b"fine_labels"), "key 'labels' occurs 0 times"),
        (protocol_2(cifar_batch(0)[0], [1, 2, 3]), "3 labels for 4 images"),
        (protocol_2(cifar_batch(0)[0], [1, 2, 3, 10]), r"label 10 is not in 0\.\.9"),
        (protocol_2(cifar_batch(0)[0][:, 1:], [1, 2, 3, 4]), "no block of 3072"),
    ],
)
def test_damaged_cifar_pickles_are_named(tmp_path, content, message):
    write_cifar_py(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"test_batch: .*{message}"):
        Cifar10(root=str(tmp_path)).load()


def test_damaged_or_missing_cifar_binaries(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar_bin(folder)
    path = folder / "data_batch_4.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match=r"data_batch_4\.bin: 12291 bytes are not a multiple"):
        Cifar10(root=str(tmp_path)).load()
    path.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(ConfigError, match="label 11 is not in"):
        Cifar10(root=str(tmp_path)).load()
    path.unlink()
    with pytest.raises(MissingDataError, match=r"missing data_batch_4\.bin in .*batches-bin"):
        Cifar10(root=str(tmp_path)).load()


def test_missing_cifar_says_how_to_get_it(tmp_path):
    presence = Cifar10(root=str(tmp_path)).check()
    assert not presence.present
    for part in ("cifar-10-python.tar.gz", "cs.toronto.edu", f"unpack it into {tmp_path}"):
        assert part in presence.detail


def write_pictures(folder: Path) -> None:
    for part, n in (("train", 3), ("test", 2)):
        for value, name in ((50, "frog"), (200, "cat")):
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (6, 5), (value, i, 0)).save(place / f"{i}.png")
            (place / "notes.txt").write_text("not a picture")


@pytest.mark.parametrize("where", ["cifar10", "."])
def test_cifar_as_pictures(tmp_path, where):
    write_pictures(tmp_path / where)
    arrays = Cifar10(root=str(tmp_path)).load()
    assert arrays.train_inputs.shape == (6, 3, 5, 6)
    assert arrays.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert arrays.test_labels.tolist() == [0, 0, 1, 1]
    assert arrays.n_classes == 2
    assert arrays.train_inputs[:, 0, 0, 0].tolist() == [200] * 3 + [50] * 3  # cat before frog
    assert arrays.train_inputs[2, 1].tolist() == [[2] * 6] * 5


def test_odd_pictures_are_named(tmp_path):
    write_pictures(tmp_path)
    odd = tmp_path / "train" / "frog" / "9.png"
    Image.new("RGB", (6, 6)).save(odd)
    with pytest.raises(ConfigError, match=r"9\.png: is \(3, 6, 6\), earlier ones are \(3, 5, 6\)"):
        Cifar10(root=str(tmp_path)).load()
    odd.write_bytes(b"\x89PNG broken")
    with pytest.raises(ConfigError, match=r"9\.png: not a readable picture"):
        Cifar10(root=str(tmp_path)).load()
    odd.unlink()
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(ConfigError, match="no training folder for class 'dog'"):
        Cifar10(root=str(tmp_path)).load()
