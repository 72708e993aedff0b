"""A run folder is complete whatever ended the run, and never overwrites another."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fedkd.adversaries.loss_maximisation import LossMaximisation
from fedkd.errors import ConfigError, RunStopped
from fedkd.methods.base import methods
from fedkd.metrics_file import METRICS, write_metrics
from fedkd.results import Failure, Measurement, RoundResult, result_hash
from fedkd.run_files import finished_run, read_metrics, read_scenario, read_summary
from fedkd.run_folder import RunFolder
from fedkd.scenario import Scenario, scenario_hash

SCENARIO = Scenario(name="tried", rounds=3, models="mlp")


def _round(n: int, accuracies=(0.25, 0.75)) -> RoundResult:
    return RoundResult(
        round=n,
        cohort=[0, 1],
        measurements=[Measurement(n, c, "accuracy", a) for c, a in enumerate(accuracies)]
        + [
            Measurement(n, -1, "bytes_up.knowledge", 100.0),
            Measurement(n, -1, "bytes_down.consensus", 30.0),
            Measurement(n, -1, "bytes_down.control", 3.0),
            Measurement(n, -1, "coverage", 0.5),
            Measurement(n, -1, "seconds", 2.0 * n),
        ],
        failures=[Failure(n, 1, "ValueError")] if n == 2 else [],
        digest=f"d{n}",
    )


def _consume(folder: RunFolder, n_rounds: int, *, ending: BaseException | None = None) -> None:
    def stream():
        for n in range(1, n_rounds + 1):
            yield _round(n)
        if ending is not None:
            raise ending

    with folder:
        for _ in folder.record(stream()):
            pass


def test_a_finished_run_reads_back(tmp_path):
    folder = RunFolder.create(tmp_path, SCENARIO)
    _consume(folder, 3)
    summary = read_summary(folder.path)
    assert summary["status"] == "finished"
    assert summary["rounds_done"] == 3
    assert summary["accuracy_mean"] == 0.5
    assert summary["accuracy_worst"] == 0.25
    assert summary["bytes_up"] == 300
    assert summary["bytes_down"] == 99
    assert summary["bytes_by_kind"] == {
        "up": {"knowledge": 300},
        "down": {"consensus": 90, "control": 9},
    }
    assert summary["seconds_per_round"] == 4.0
    assert summary["failures"] == 1
    assert summary["teacher_accuracy"] is None
    assert summary["result_hash"] == result_hash([_round(n) for n in (1, 2, 3)])
    assert summary["scenario_hash"] == scenario_hash(SCENARIO)
    assert read_scenario(folder.path) == SCENARIO
    table = read_metrics(folder.path)
    assert list(table.columns) == ["round", "client", "name", "value"]
    assert len(table) == 21
    assert table[(table.name == "accuracy") & (table.client == 1)]["value"].tolist() == [0.75] * 3


def test_the_folder_says_what_made_it(tmp_path):
    folder = RunFolder.create(tmp_path, SCENARIO)
    head = json.loads((folder.path / "scenario.json").read_text())
    assert head["schema"] == 1
    assert head["scenario_hash"] == scenario_hash(SCENARIO)
    assert set(head["versions"]) >= {"fedkd", "torch", "numpy", "flwr"}
    assert folder.path.name == f"tried-edgefd-seed0-{scenario_hash(SCENARIO)[:8]}"


def test_events_are_written_while_the_run_goes_on(tmp_path):
    folder = RunFolder.create(tmp_path, SCENARIO)
    stream = folder.record(iter([_round(1), _round(2)]))
    next(stream)
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1]
    next(stream)
    event = json.loads((folder.path / "events.jsonl").read_text().splitlines()[1])
    assert event["failures"] == [{"round": 2, "client": 1, "reason": "ValueError"}]
    assert event["digest"] == "d2"
    assert event["schema"] == 1


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (RunStopped("round 3: no"), "stopped"),
        (MemoryError(), "stopped"),
    ],
)
def test_a_run_that_breaks_off_is_readable(tmp_path, ending, status):
    folder = RunFolder.create(tmp_path, SCENARIO)
    with pytest.raises(type(ending)):
        _consume(folder, 2, ending=ending)
    summary = read_summary(folder.path)
    assert (summary["status"], summary["rounds_done"]) == (status, 2)
    assert len(read_metrics(folder.path)) == 14


def test_a_run_without_a_round_is_readable(tmp_path):
    folder = RunFolder.create(tmp_path, SCENARIO)
    with pytest.raises(KeyboardInterrupt):
        _consume(folder, 0, ending=KeyboardInterrupt())
    summary = read_summary(folder.path)
    assert (summary["status"], summary["rounds_done"]) == ("interrupted", 0)
    assert summary["accuracy_mean"] is None
    assert summary["seconds_per_round"] is None
    assert len(read_metrics(folder.path)) == 0


def test_an_interrupt_while_a_result_is_shown_counts_as_one(tmp_path):
    folder = RunFolder.create(tmp_path, SCENARIO)

    def interrupted() -> None:
        with folder:
            for _ in folder.record(iter([_round(1), _round(2)])):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_summary(folder.path)["status"] == "interrupted"


def test_earlier_runs_are_never_overwritten(tmp_path):
    paths = [RunFolder.create(tmp_path, SCENARIO).path for _ in range(3)]
    assert [p.name.removeprefix(paths[0].name) for p in paths] == ["", ".2", ".3"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as error:
        RunFolder.create(tmp_path / "file", SCENARIO)
    assert str(error.value).startswith("--out: cannot write to ")


def test_a_finished_run_is_found_again_and_another_is_not(tmp_path):
    assert finished_run(tmp_path, SCENARIO) is None
    folder = RunFolder.create(tmp_path, SCENARIO)
    assert finished_run(tmp_path, SCENARIO) is None
    with pytest.raises(KeyboardInterrupt):
        _consume(folder, 1, ending=KeyboardInterrupt())
    assert finished_run(tmp_path, SCENARIO) is None
    second = RunFolder.create(tmp_path, SCENARIO)
    _consume(second, 3)
    found = finished_run(tmp_path, SCENARIO)
    assert found is not None
    assert found["run_dir"] == str(second.path)
    assert finished_run(tmp_path, Scenario(name="tried", rounds=3, models="mlp", seed=1)) is None


def test_what_is_no_run_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"schema": 2}')
    with pytest.raises(ConfigError, match="schema 2; this fedkd reads 1"):
        read_summary(tmp_path)


def test_the_result_hash_leaves_times_out_and_nothing_else():
    def slower(result: RoundResult) -> RoundResult:
        rows = [
            Measurement(m.round, m.client, m.name, m.value + (m.name == "seconds"))
            for m in result.measurements
        ]
        return RoundResult(
            round=result.round, cohort=result.cohort, measurements=rows, digest=result.digest
        )

    assert result_hash([_round(1)]) == result_hash([slower(_round(1))])
    changed = [
        [_round(1, accuracies=(0.25, 0.5))],
        [_round(2)],
        [_round(1), _round(2)],
        [RoundResult(round=1, cohort=[0], measurements=_round(1).measurements, digest="d1")],
        [RoundResult(round=1, cohort=[0, 1], measurements=_round(1).measurements, digest="x")],
    ]
    hashes = {result_hash(rounds) for rounds in changed}
    assert len(hashes) == len(changed)
    assert result_hash([_round(1)]) not in hashes


def test_adversary_clients_have_no_part_in_the_honest_mean(tmp_path):
    liars = LossMaximisation(clients=(1,))
    attacked = replace(SCENARIO, method=methods.get("fedmd")(), attack=liars)
    folder = RunFolder.create(tmp_path, attacked)
    _consume(folder, 3)
    summary, table = read_summary(folder.path), read_metrics(folder.path)
    assert (summary["accuracy_mean"], summary["accuracy_worst"]) == (0.25, 0.25)
    assert summary["bytes_up"] == 300, "bytes are everybody's"
    assert set(table[table.name == "accuracy"]["client"]) == {0, 1}, "each is still measured"


def test_the_table_has_its_types_and_every_float_bit_by_bit(tmp_path):
    odd = [0.1, float("nan"), float("-inf"), 5e-324, -0.0]
    rows = [Measurement(n, n - 1, f"größe_{n}", value) for n, value in enumerate(odd)]
    for some in (rows, []):
        write_metrics(tmp_path / METRICS, some)
        table = read_metrics(tmp_path)
        kinds = {name: str(kind) for name, kind in table.dtypes.items()}
        assert kinds == {
            "round": "int32",
            "client": "int32",
            "name": "string",
            "value": "float64",
        }
        assert list(table["name"]) == [row.name for row in some]
        assert list(table["client"]) == [row.client for row in some]
        assert [v.hex() for v in table["value"]] == [row.value.hex() for row in some]
