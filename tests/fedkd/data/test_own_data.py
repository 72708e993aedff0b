"""Your own npz and csv files: what is accepted, and what the refusals say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedkd.data import subset
from fedkd.data.datasets.csv import Csv
from fedkd.data.datasets.npz import Npz
from fedkd.errors import ConfigError, MissingDataError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def save_npz(path: Path, **changes: np.ndarray | None) -> Npz:
    arrays = {
        "x_train": rng().integers(0, 256, (6, 8, 7)).astype(np.uint8),
        "y_train": np.array([30, 10, 10, 20, 30, 20]),
        "x_test": np.zeros((2, 8, 7), dtype=np.uint8),
        "y_test": np.array([10, 30]),
    }
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return Npz(root=str(path))


def test_npz_grey_images_and_sorted_labels(tmp_path):
    data = save_npz(tmp_path / "a.npz")
    arrays = data.load()
    assert arrays.train_inputs.shape == (6, 1, 8, 7)
    assert arrays.train_inputs.dtype == np.uint8
    assert arrays.train_labels.tolist() == [2, 0, 0, 1, 2, 1]
    assert arrays.test_labels.tolist() == [0, 2]
    assert arrays.n_classes == 3
    assert "6 train, 2 test, 3 classes" in data.check().detail


@pytest.mark.parametrize(
    ("shape", "stored"),
    [((8, 7, 3), (3, 8, 7)), ((8, 7, 1), (1, 8, 7)), ((3, 8, 7), (3, 8, 7)), ((5,), (5,))],
)
def test_npz_shapes(tmp_path, shape, stored):
    x = rng().integers(0, 256, (6, *shape)).astype(np.int64)
    arrays = save_npz(tmp_path / "a.npz", x_train=x, x_test=x[:2]).load()
    assert arrays.input_shape == stored
    assert arrays.train_inputs.dtype == (np.float32 if len(shape) == 1 else np.uint8)
    if shape == (8, 7, 3):
        assert np.array_equal(arrays.train_inputs[:, 1], x[:, :, :, 1])


def test_npz_float_table_and_string_labels(tmp_path):
    x = rng().normal(size=(6, 4))
    y = np.array(["b", "a", "c", "c", "a", "b"])
    arrays = save_npz(tmp_path / "a.npz", x_train=x, x_test=x[:2], y_train=y, y_test=y[:2]).load()
    assert arrays.train_inputs.dtype == np.float32
    np.testing.assert_allclose(arrays.train_inputs, x, rtol=1e-6)
    assert arrays.train_labels.tolist() == [1, 0, 2, 2, 0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "no y_test"),
        ({"y_train": np.array([0.5] * 6)}, "y_train: float64"),
        ({"y_train": np.arange(5)}, "5 labels for 6 inputs"),
        ({"y_train": np.array(list("abcabc"))}, "y_train is <U1, y_test is int64"),
        ({"y_train": np.array([None] * 6)}, "not a plain .npz file"),
        ({"x_train": np.full((6, 8, 7), 256)}, r"integers 256\.\.256; images need 0\.\.255"),
        ({"x_test": np.zeros((2, 8, 8), dtype=np.uint8)}, "make them alike"),
        ({"x_test": np.zeros((2, 8, 7))}, "make them alike"),
        ({"x_train": np.zeros((6, 4, 8, 7))}, "1 or 3"),
        ({"x_train": np.zeros((6, 3, 8, 3))}, "1 or 3"),
        ({"x_train": np.full((6, 4), np.nan)}, "not finite"),
        ({"x_train": np.zeros(6)}, "2 to 4 dimensions"),
    ],
)
def test_npz_refuses_what_it_cannot_read(tmp_path, changes, message):
    data = save_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(ConfigError, match=message):
        data.load()
    assert not data.check().present


def test_npz_files_that_are_none(tmp_path):
    with pytest.raises(MissingDataError, match="set root"):
        Npz().load()
    with pytest.raises(MissingDataError, match=r"there is no file .*no\.npz"):
        Npz(root=str(tmp_path / "no.npz")).load()
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ConfigError, match=r"not an \.npz file"):
        Npz(root=str(tmp_path / "a.npy")).load()
    data = save_npz(tmp_path / "b.npz")
    content = bytearray((tmp_path / "b.npz").read_bytes())
    content[200] ^= 0xFF
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"not a plain \.npz file"):
        data.load()


def save_csv(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def table(n: int = 100) -> str:
    lines = [f"{i},{5},{'yes' if i % 4 == 0 else 'no'},{-2.5 * i}" for i in range(n)]
    return "\n".join(["age,same,label,score", *lines]) + "\n"


def test_csv_is_split_by_class_and_scaled_by_the_server_rows(tmp_path):
    data = Csv(root=save_csv(tmp_path / "a.csv", "\ufeff" + table()))
    arrays = data.load()
    assert arrays.train_inputs.shape == (80, 3)
    assert arrays.train_inputs.dtype == np.float32
    assert arrays.n_classes == 2
    assert np.bincount(arrays.test_labels).tolist() == [15, 5]  # "no" before "yes"
    np.testing.assert_allclose(arrays.test_inputs.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(arrays.test_inputs.std(axis=0), [1, 0, 1], atol=1e-6)
    assert abs(arrays.train_inputs[:, 0].mean()) > 1e-4  # its own mean was not used
    assert "80 train, 20 test" in data.check().detail
    assert np.array_equal(data.load().train_inputs, arrays.train_inputs)


def test_csv_training_rows_do_not_move_the_scaling(tmp_path):
    before = Csv(root=save_csv(tmp_path / "a.csv", table())).load()
    _, test = subset.stratified_split(np.array([i % 4 == 0 for i in range(100)]).astype(int), 20)
    row = next(i for i in range(1, 100) if i not in test)
    lines = table().splitlines()
    lines[row + 1] = lines[row + 1].replace(f"{row},", "1000000,", 1)
    after = Csv(root=save_csv(tmp_path / "b.csv", "\n".join(lines))).load()
    assert np.array_equal(before.test_inputs, after.test_inputs)
    assert after.train_inputs.max() > 1000


def test_csv_integer_labels_sort_as_numbers(tmp_path):
    text = "x,y\n" + "".join(f"{i},{i % 3 * 5}\n" for i in range(30))  # labels 0, 5, 10
    arrays = Csv(root=save_csv(tmp_path / "a.csv", text), label="y", test_fraction=0.5).load()
    both = np.concatenate([arrays.train_labels, arrays.test_labels])
    assert np.bincount(both).tolist() == [10, 10, 10]
    order = np.argsort(np.concatenate([arrays.train_inputs, arrays.test_inputs])[:, 0])
    assert both[order][:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,label\n1,a\nred,b\n", r"line 3: column 'x' holds 'red', not a number"),
        ("x,label\n1,a\n ,b\n", "line 3: column 'x' is empty"),
        ("x,label\n1,a\n1,\n", "line 3: column 'label' is empty"),
        ("x,label\nnan,a\n", "column 'x' holds 'nan'"),
        ("x,label\ninf,a\n", "column 'x' holds 'inf'"),
        ("x,label\n1\n", "line 2: 1 cells, the header has 2"),
        ("x,labl\n1,a\n", "no label column 'label'; did you mean 'labl'"),
        ("x,x,label\n1,2,a\n", "column 'x' occurs twice"),
        ("label\na\n", "nothing to learn from"),
        ("x,label\n", "no rows"),
        ("", "no label column"),
        ("x,label\n1,a\n2,b\n", "at least 2"),
    ],
)
def test_csv_refuses_what_it_cannot_use(tmp_path, text, message):
    data = Csv(root=save_csv(tmp_path / "a.csv", text))
    with pytest.raises(ConfigError, match=message) as error:
        data.load()
    assert "a.csv" in str(error.value)
    assert not data.check().present


def test_csv_missing_or_not_text(tmp_path):
    with pytest.raises(MissingDataError, match="set root"):
        Csv().load()
    with pytest.raises(MissingDataError, match="there is no file"):
        Csv(root=str(tmp_path / "no.csv")).load()
    (tmp_path / "b.csv").write_bytes(b"x,label\n\xff\xfe,1\n")
    with pytest.raises(ConfigError, match="not a UTF-8 CSV file"):
        Csv(root=str(tmp_path / "b.csv")).load()
