"""A client's own examples: read from four kinds of sources, refused with value and remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fedkd_clients.fleet import Fleet
from fedkd_clients.own_data import IDS_APART, own_data, read_examples
from fedkd_clients.store import MemoryStore

from fedkd.compose import compose
from fedkd.data.federation import load
from fedkd.errors import ConfigError, MissingDataError
from fedkd.transport.messages import Action, Request

CPU = torch.device("cpu")
N = 40


@pytest.fixture
def digits():
    return load(compose(["data=digits"]).data)


def _some(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (N, 8, 8)).astype(np.uint8), rng.integers(0, 10, N)


def test_an_npz_file_with_and_without_channels(tmp_path: Path, digits):
    x, y = _some()
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez(tmp_path / "b.npz", x_train=x[:, None], y_train=y.astype(str))
    for name in ("a.npz", "b.npz"):
        inputs, labels = read_examples(tmp_path / name, digits, client=0)
        assert inputs.dtype == np.uint8
        assert np.array_equal(inputs, x[:, None])
        assert np.array_equal(labels, y)


def test_a_folder_of_pictures_with_numbered_classes(tmp_path: Path, digits):
    from PIL import Image

    x, _ = _some()
    for label, picture in ((7, x[0]), (3, x[1])):
        (tmp_path / "pictures" / str(label)).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "pictures" / str(label) / "p.png")
    inputs, labels = read_examples(tmp_path / "pictures", digits, client=0)
    assert labels.tolist() == [3, 7], (
        "the folder's name is the number, whatever classes are missing"
    )
    assert np.array_equal(inputs[:, 0], x[[1, 0]])


def test_a_hook_knows_which_client_it_serves(tmp_path: Path, digits):
    hook = tmp_path / "mine.py"
    hook.write_text(
        "import numpy as np\n"
        "def examples(client):\n"
        "    return np.full((5, 8, 8), client, dtype=np.uint8), np.arange(5)\n"
    )
    inputs, labels = read_examples(hook, digits, client=4)
    assert inputs.max() == 4
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_a_table(tmp_path: Path):
    np.savez(
        tmp_path / "server.npz",
        **{
            f"x_{part}": np.random.default_rng(0).normal(size=(30, 2)) for part in ("train", "test")
        },
        **{f"y_{part}": np.arange(30) % 3 for part in ("train", "test")},
    )
    scenario = compose([f"data={{name: npz, root: {tmp_path / 'server.npz'}}}", "models=mlp"])
    table = tmp_path / "own.csv"
    table.write_text("a,b,label\n0.5,1,2\n-1,2e-1,0\n")
    inputs, labels = read_examples(table, load(scenario.data), client=0)
    assert inputs.dtype == np.float32
    assert inputs.tolist() == [[0.5, 1.0], [-1.0, np.float32(0.2)]]
    assert labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((5, 9, 9), np.uint8), np.zeros(5, int), r"one input is \(1, 9, 9\).*\(1, 8, 8\)"),
        (np.zeros((5, 8, 8)), np.zeros(5, int), "inputs are float64, the scenario has uint8"),
        (np.full((5, 8, 8), 300), np.zeros(5, int), r"inputs 300\.\.300; .* 0\.\.255"),
        (
            np.zeros((5, 8, 8), np.uint8),
            np.full(5, 10),
            r"labels 10\.\.10; the scenario has 0\.\.9",
        ),
        (np.zeros((5, 8, 8), np.uint8), np.zeros(4, int), "4 labels for 5 inputs"),
        (np.zeros((5, 8, 8), np.uint8), np.array(["cat"] * 5), "class 'cat'; name it by a number"),
        (np.zeros((5, 8, 8), np.uint8), np.zeros(5), "labels are float64"),
        (np.zeros((0, 8, 8), np.uint8), np.zeros(0, int), "0 labels for 0 inputs"),
    ],
)
def test_examples_that_do_not_fit_are_refused(tmp_path: Path, digits, x, y, said: str):
    np.savez(tmp_path / "bad.npz", x=x, y=y)
    with pytest.raises(ConfigError, match=said):
        read_examples(tmp_path / "bad.npz", digits, client=0)


def test_what_is_no_data_is_refused(tmp_path: Path, digits):
    with pytest.raises(MissingDataError, match="there is no"):
        read_examples(tmp_path / "none.npz", digits, client=0)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"is no \.npz, \.csv, \.py or folder"):
        read_examples(tmp_path / "a.txt", digits, client=0)
    np.savez(tmp_path / "keys.npz", inputs=np.zeros(1))
    with pytest.raises(ConfigError, match="holds inputs; write it with x="):
        read_examples(tmp_path / "keys.npz", digits, client=0)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object), y=np.zeros(1, int))
    with pytest.raises(ConfigError, match=r"not a plain \.npz"):
        read_examples(tmp_path / "objects.npz", digits, client=0)
    (tmp_path / "hook.py").write_text("def other(): pass\n")
    with pytest.raises(ConfigError, match=r"no function examples\(client\)"):
        read_examples(tmp_path / "hook.py", digits, client=0)


def test_rows_are_divided_and_numbered_apart_from_every_data_set(tmp_path: Path):
    x, y = _some()
    np.savez(tmp_path / "own.npz", x=x, y=y)
    scenario = compose(["data=digits", "clients=3", "models=mlp", "local_test_fraction=0.25"])
    data = own_data(scenario, 2, tmp_path / "own.npz", device=CPU)
    assert (len(data.train), len(data.local_test)) == (30, 10)
    rows = data.ids.numpy() - 3 * IDS_APART
    assert np.array_equal(data.train.inputs[:, 0].numpy(), x[rows])
    assert np.array_equal(data.train.labels.numpy(), y[rows])
    assert 0 < int(data.contributed.sum()) < 30, "a pooled proxy set takes its share of them too"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [(["method=centralised"], "pools the clients' data"), (["scenario=lm_canary"], "canaries")],
)
def test_scenarios_that_hand_out_the_data_themselves_are_refused(tmp_path, overrides, said):
    np.savez(tmp_path / "own.npz", x=_some()[0], y=_some()[1])
    with pytest.raises(ConfigError, match=said):
        own_data(compose(overrides), 0, tmp_path / "own.npz", device=CPU)


def test_a_fleet_trains_on_it(tmp_path: Path):
    x, y = _some()
    np.savez(tmp_path / "own.npz", x=x, y=y)
    scenario = compose(["data=digits", "clients=3", "models=mlp"])
    fleet = Fleet(scenario, MemoryStore(), device=CPU, own=str(tmp_path / "own.npz"))
    (reply,) = fleet.handle([Request(action=Action.CONTRIBUTE, client=1)])
    assert reply.contribution is not None
    given = {row.tobytes() for row in reply.contribution.inputs[:, 0].numpy()}
    assert given <= {row.tobytes() for row in x}


def test_a_pooled_proxy_set_of_own_examples_needs_no_true_labels(tmp_path: Path, play):
    scenario = compose(["data=digits", "clients=2", "models=mlp", "rounds=1", "partition=iid"])
    fleet = Fleet(scenario, MemoryStore(), device=CPU, own=str(tmp_path / "own.npz"))
    np.savez(tmp_path / "own.npz", x=_some()[0], y=_some()[1])
    first, last = play(scenario, fleet_for=lambda _: fleet)
    assert first.failures == last.failures == []
    names = {m.name for m in last.measurements}
    assert "coverage" in names
    assert {"teacher_accuracy", "keep_precision"} & names == set()
