"""The command line as a person meets it: output, exit codes, and one line for each mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedkd.cli import app
from fedkd.compose import shipped
from fedkd.data.datasets.base import datasets
from fedkd.methods.base import methods
from fedkd.run_files import read_scenario, read_summary

TINY = ["data=digits", "models=mlp", "clients=3", "rounds=2", "partition=iid"]
PROMISED = {
    "accuracy_mean",
    "accuracy_worst",
    "accuracy_distilled_mean",
    "accuracy_local_mean",
    "teacher_accuracy",
    "coverage",
    "keepers_per_row",
    "bytes_up",
    "bytes_down",
    "seconds",
    "seconds_per_round",
    "peak_rss_mb",
    "privacy_claim",
    "epsilon",
    "result_hash",
    "run_dir",
    "scenario_hash",
}


def _fedkd(*words: str):
    return CliRunner().invoke(app, list(words))


def _complaint(result) -> str:
    """Return the one line of a usage error."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("fedkd: ")
    return line


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli")
    return _fedkd("simulate", *TINY, "--json", "--out", str(out))


@pytest.fixture
def run_dir(finished, tmp_path) -> Path:
    """Return a copy of the finished run, to be spoilt."""
    where = Path(json.loads(finished.stdout)["run_dir"])
    return Path(shutil.copytree(where, tmp_path / where.name))


def test_json_is_the_last_line_and_progress_goes_to_stderr(finished):
    assert finished.exit_code == 0
    summary = json.loads(finished.stdout.splitlines()[-1])
    assert set(summary) >= PROMISED
    assert summary["status"] == "finished"
    assert summary["privacy_claim"] == "no formal guarantee"
    assert summary["epsilon"] is None
    progress = [json.loads(line) for line in finished.stderr.splitlines()]
    assert [line["round"] for line in progress] == [0, 1, 2]
    assert progress[2]["accuracy"] == pytest.approx(summary["accuracy_mean"], abs=1e-4)


def test_json_and_the_stored_summary_agree(finished):
    summary = json.loads(finished.stdout.splitlines()[-1])
    stored = read_summary(Path(summary["run_dir"]))
    passing = {"seconds", "peak_rss_mb"}
    assert {k: v for k, v in stored.items() if k not in passing} == {
        k: v for k, v in summary.items() if k not in passing
    }


def test_quiet_says_nothing_but_the_table(tmp_path):
    result = _fedkd("simulate", *TINY, "rounds=1", "--quiet", "--out", str(tmp_path))
    assert result.exit_code == 0
    assert result.stderr == ""
    for words in ("no formal guarantee", "raw private examples", "result hash", "coverage"):
        assert words in result.stdout


def test_a_device_is_a_word_of_the_runtime(tmp_path):
    result = _fedkd(
        "simulate",
        *TINY,
        "rounds=1",
        "--device",
        "cpu",
        "--json",
        "--quiet",
        "--out",
        str(tmp_path),
    )
    run = Path(json.loads(result.stdout)["run_dir"])
    assert read_scenario(run).runtime.device.value == "cpu"
    assert _fedkd("simulate", "--device", "gpu").exit_code == 2


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["scenario=noniid_stron"],
            ["scenario: ", "'noniid_stron'", "did you mean 'noniid_strong'"],
        ),
        (["round=3"], ["round: ", "'round'", "did you mean 'rounds'"]),
        (
            ["method.filter.quantle=0.5"],
            ["method.filter.quantle: ", "'quantle'", "did you mean 'quantile'"],
        ),
        (["method=edgfd"], ["method: ", "'edgfd'", "did you mean 'edgefd'"]),
        (["models=mpl"], ["models: ", "'mpl'", "did you mean 'mlp'"]),
        (["rounds=0"], ["rounds: ", "0 is refused", "greater than or equal to 1"]),
        (["method.filter.quantile=1.5"], ["method.filter.quantile: ", "1.5 is refused"]),
        (["training.order=mixed"], ["training.order: ", "'mixed' is refused", "interleaved"]),
        (["rounds"], ["'rounds' is not of the form key=value"]),
    ],
)
def test_a_mistake_is_exit_2_and_one_line(words, parts, tmp_path):
    line = _complaint(_fedkd("simulate", *words, "--out", str(tmp_path)))
    for part in parts:
        assert part in line
    assert list(tmp_path.iterdir()) == []


def test_missing_data_is_exit_2_and_one_line(tmp_path, monkeypatch):
    from fedkd.data.datasets import base

    monkeypatch.delenv("FEDKD_DATA", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(base, "SYSTEM_FOLDER", tmp_path / "system")
    line = _complaint(_fedkd("simulate", "data=cifar10", "--out", str(tmp_path / "runs")))
    assert "cifar" in line


def test_more_clients_than_rows_is_exit_2_and_one_line(tmp_path):
    words = [*TINY, "clients=30", "data.limit=20", "--quiet", "--out", str(tmp_path)]
    line = _complaint(_fedkd("simulate", *words))
    assert "30 clients" in line
    assert "20" in line


def test_a_missing_plugin_is_exit_2_and_one_line(tmp_path):
    line = _complaint(_fedkd("simulate", "--plugin", str(tmp_path / "no.py")))
    assert "--plugin: no file" in line


def test_a_plugin_adds_a_method(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        '"""A method of my own."""\n'
        "from dataclasses import dataclass\n"
        "from fedkd.models.base import models\n"
        "from fedkd.models.mlp import MLP\n"
        "from fedkd.models.base import Model\n"
        "@models.register('my_tiny_net')\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Model):\n"
        '    """Four hidden units."""\n'
        "    def build(self, input_shape, n_classes):\n"
        "        return MLP(hidden=4).build(input_shape, n_classes)\n"
    )
    words = ["models=my_tiny_net", "rounds=1", "--quiet", "--json", "--out", str(tmp_path / "runs")]
    try:
        result = _fedkd("simulate", *TINY, *words, "--plugin", str(plugin))
    finally:
        from fedkd.models.base import models

        models._classes.pop("my_tiny_net", None)
    assert result.exit_code == 0, result.output
    run = Path(json.loads(result.stdout)["run_dir"])
    assert json.loads((run / "scenario.json").read_text())["scenario"]["models"] == "my_tiny_net"


def test_replay_of_a_run_gives_the_same_hash(run_dir, tmp_path):
    result = _fedkd("replay", str(run_dir), "--out", str(tmp_path / "again"))
    assert result.exit_code == 0
    assert f"same result: {read_summary(run_dir)['result_hash']}" in result.stdout


def test_replay_of_another_result_is_exit_3(run_dir, tmp_path):
    path = run_dir / "summary.json"
    summary = json.loads(path.read_text())
    true_hash = summary["result_hash"]
    path.write_text(json.dumps({**summary, "result_hash": "0123456789abcdef"}))
    result = _fedkd("replay", str(run_dir), "--out", str(tmp_path / "again"))
    assert result.exit_code == 3
    complaint = [line for line in result.stderr.splitlines() if line.startswith("fedkd: ")]
    assert len(complaint) == 1
    assert f"another result: 0123456789abcdef then, {true_hash} now" in complaint[0]


def test_replay_of_no_run_is_exit_2(tmp_path):
    assert "no run folder" in _complaint(_fedkd("replay", str(tmp_path)))


def test_scenarios_and_methods_are_listed_with_a_line_each():
    listed = _fedkd("scenarios")
    assert listed.exit_code == 0
    for name in shipped():
        assert any(
            row.split()[:1] == [name] and row.split()[1:] for row in listed.stdout.splitlines()
        )
    listed = _fedkd("methods")
    assert listed.exit_code == 0
    for name in methods.names():
        assert any(
            row.split()[:1] == [name] and row.split()[1:] for row in listed.stdout.splitlines()
        )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("edgefd", ["method edgefd", "arxiv.org/abs/2508.14769", "Differences", "filter = "]),
        ("kmeans", ["filter kmeans", "Privacy", "quantile = 0.5"]),
        ("iid", ["scenario iid"]),
        ("own_only", ["filter own_only", "method own_only"]),
        ("mlp", ["model mlp", "hidden = 128"]),
    ],
)
def test_explain_says_what_a_thing_is(name, parts):
    result = _fedkd("explain", name)
    assert result.exit_code == 0
    for part in parts:
        assert part in result.stdout


@pytest.mark.parametrize("name", methods.names())
def test_explain_knows_every_method(name):
    result = _fedkd("explain", name)
    assert result.exit_code == 0
    assert f"method {name}" in result.stdout


def test_explain_suggests_the_nearest_name():
    assert "did you mean 'edgefd'" in _complaint(_fedkd("explain", "edgfd"))


def test_a_name_of_two_things_explains_both():
    result = _fedkd("explain", "dirichlet")
    assert "scenario dirichlet" in result.stdout
    assert "partitioner dirichlet" in result.stdout


def test_data_check_tells_of_every_data_set():
    result = _fedkd("data", "check")
    assert result.exit_code == 0
    text = result.stdout
    for name in datasets.names():
        assert any(row.split()[:1] == [name] for row in text.splitlines())
    assert "1500 train" in text
    assert "present" in text


def test_no_word_is_help():
    result = _fedkd()
    assert "simulate" in result.output
    assert "replay" in result.output
