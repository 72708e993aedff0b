"""A run uses what was timed before it, wherever its clients are, and so does its replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedkd.cli import app
from fedkd.compose import compose
from fedkd.errors import ConfigError
from fedkd.run_files import CALIBRATION, HEAD, read_metrics, read_scenario
from fedkd.simulation import new_run, resumed_run, run_into, simulate, watch_quietly
from fedkd.training.executors import calibration
from fedkd.training.executors.choice import EXECUTORS

WORDS = (
    *("scenario=iid", "data=digits", "models={mlp: 20, cnn_small: 20}", "clients=40"),
    *("data.limit=400", "rounds=2", "method=fedmd"),
)
TIMED = "runtime.calibrate=true"
ODD = {("serial", 1): 9.0, ("lean", 1): 8.0, ("stacked", 2): 1.0}
"""A clock's word that nobody would believe of convolutions on a CPU."""


@pytest.fixture
def odd(monkeypatch):
    """Make the clock prefer stacking in twos and tiny prediction batches, for every model."""
    monkeypatch.setattr(calibration, "time_training", lambda group: ODD)
    monkeypatch.setattr(calibration, "time_prediction", lambda group, known: {7: 1.0, 8: 2.0})


@pytest.fixture
def unasked(monkeypatch):
    """Fail whoever asks the clock."""

    def refuse(*_: object) -> None:
        raise AssertionError("it was timed again")

    monkeypatch.setattr(calibration, "calibrate", refuse)
    monkeypatch.setattr(calibration, "seconds", refuse)


@pytest.fixture(scope="module")
def by_table(tmp_path_factory):
    return simulate([*WORDS, "runtime.workers=1"], out=tmp_path_factory.mktemp("table"))


def _blocks_seen(monkeypatch, name: str) -> list[int]:
    seen: list[int] = []
    train = type(EXECUTORS[name]).train

    def counted(self, rows, jobs, *, packing):
        seen.append(len(jobs))
        train(self, rows, jobs, packing=packing)

    monkeypatch.setattr(type(EXECUTORS[name]), "train", counted)
    return seen


def test_the_run_uses_what_was_chosen_and_its_replay_the_record(odd, monkeypatch, tmp_path):
    stacked, lean = _blocks_seen(monkeypatch, "stacked"), _blocks_seen(monkeypatch, "lean")
    first = simulate([*WORDS, TIMED, "runtime.workers=1"], out=tmp_path)
    assert set(stacked) == {1, 2}, "groups of two or three clients, in blocks of at most two"
    assert lean == []
    path = Path(first["run_dir"])
    assert [
        (c.model, c.executor.value, c.block, c.prediction_batch)
        for c in read_scenario(path).runtime.choices
    ] == [("cnn_small", "stacked", 2, 7), ("mlp", "stacked", 2, 7)]
    timed = json.loads((path / CALIBRATION).read_text())
    assert timed["schema"] == 1
    assert [model["chosen"]["model"] for model in timed["models"]] == ["cnn_small", "mlp"]

    def otherwise(*_: object) -> None:
        raise AssertionError("it was timed again")

    monkeypatch.setattr(calibration, "time_training", otherwise)
    monkeypatch.setattr(calibration, "time_prediction", otherwise)
    stacked.clear()
    again = CliRunner().invoke(app, ["replay", str(path), "--out", str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    assert f"same result: {first['result_hash']}" in again.stdout
    assert set(stacked) == {1, 2}
    (replayed,) = (tmp_path / "again").iterdir()
    assert not (replayed / CALIBRATION).exists(), "nothing was timed for this folder"
    assert read_scenario(replayed) == read_scenario(path)


def test_results_differ_from_the_table_s_by_rounding_alone(odd, by_table, tmp_path):
    found = simulate([*WORDS, TIMED, "runtime.workers=1"], out=tmp_path)
    ours, theirs = (read_metrics(Path(s["run_dir"])) for s in (found, by_table))
    merged = ours.merge(theirs, on=["round", "client", "name"])
    assert len(merged) == len(ours) == len(theirs)
    kept = merged[merged.name.str.startswith("accuracy")]
    assert len(kept) > 80
    assert (kept.value_x - kept.value_y).abs().max() < 0.05
    assert found["scenario_hash"] == by_table["scenario_hash"]


def test_workers_use_the_choice_that_was_made_before_they_were_forked(odd, tmp_path):
    alone = simulate([*WORDS, TIMED, "runtime.workers=1"], out=tmp_path)
    forked = simulate([*WORDS, TIMED, "runtime.workers=2"], out=tmp_path)
    assert forked["result_hash"] == alone["result_hash"]
    assert forked["failures"] == 0


def test_a_real_clock_before_a_fork_leaves_workers_able_to_train(monkeypatch, tmp_path):
    monkeypatch.setattr(calibration, "TRAINING_S", 0.05)
    monkeypatch.setattr(calibration, "PREDICTION_S", 0.02)
    run = simulate([*WORDS, TIMED, "runtime.workers=2"], out=tmp_path)
    assert (run["failures"], run["rounds_done"]) == (0, 2)
    assert (Path(run["run_dir"]) / CALIBRATION).exists()


def test_a_resumed_run_goes_on_with_the_record(odd, monkeypatch, tmp_path):
    words = [*WORDS, TIMED, "runtime.workers=1"]
    whole = simulate(words, out=tmp_path)
    folder = new_run(compose(words), out=tmp_path)

    def stop(stream) -> None:
        next(stream)
        next(stream)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_into(folder, show=stop)
    monkeypatch.setattr(calibration, "time_training", lambda group: {("serial", 1): 1.0})
    resumed, notes = resumed_run(folder.path)
    assert any("goes on" in note for note in notes)
    run_into(resumed, show=watch_quietly)
    assert resumed.summary()["result_hash"] == whole["result_hash"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"executor": "quick"}, "'quick' is refused"),
        ({"block": 0}, "0 is refused"),
        ({"streams": 2}, "unknown key 'streams'"),
        ({"model": "mpl"}, "no client has the model 'mpl'"),
    ],
)
def test_a_damaged_or_newer_record_is_refused_in_one_line(odd, tmp_path, change, told):
    run = Path(simulate([*WORDS, TIMED, "runtime.workers=1", "rounds=1"], out=tmp_path)["run_dir"])
    head = json.loads((run / HEAD).read_text())
    head["scenario"]["runtime"]["choices"][1] |= change
    (run / HEAD).write_text(json.dumps(head))
    again = CliRunner().invoke(app, ["replay", str(run), "--out", str(tmp_path / "again")])
    assert again.exit_code == 2, again.output
    assert told in again.stderr
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
@pytest.mark.enable_socket
def test_actors_on_ray_use_the_choice_that_was_made_here(odd, tmp_path):
    words = [*WORDS, TIMED, "runtime.workers=2"]
    here = simulate(words, out=tmp_path)
    there = simulate([*words, "runtime.backend=ray"], out=tmp_path)
    assert there["failures"] == 0
    assert read_scenario(Path(there["run_dir"])).runtime.choices[0].prediction_batch == 7
    assert there["result_hash"] == here["result_hash"]


def test_a_run_that_flower_or_a_server_begins_is_not_timed_and_says_so(play, tiny):
    from fedkd_server.app import build_app
    from flwr.app import Context, RecordDict

    from fedkd.scenario import to_json
    from fedkd.transport.inprocess import SCENARIO_KEY

    server = build_app(lambda scenario, start: None)
    context = Context(
        run_id=1,
        node_id=0,
        node_config={},
        state=RecordDict(),
        run_config={SCENARIO_KEY: to_json(tiny(TIMED))},
    )
    with pytest.raises(ConfigError, match="nobody timed mlp; only 'fedkd simulate' does"):
        server(None, context)
