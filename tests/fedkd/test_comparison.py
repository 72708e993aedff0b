"""A comparison: what is planned, run, reused, ended, and what the table says."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from fedkd.errors import ConfigError, RunStopped
from fedkd.registry import describe
from fedkd.reports import figures
from fedkd.reports.comparison.child_runs import Children, PlannedRun
from fedkd.reports.comparison.plan import ComparedRun, plan, run_plan, split_list
from fedkd.reports.comparison.table import Row, interval, rows
from fedkd.reports.comparison.text import as_csv, as_json, as_latex, as_table
from fedkd.reports.plotting import save
from fedkd.scenario import scenario_hash
from fedkd.simulation import simulate

TINY = ["scenario=iid", "rounds=1", "data=digits", "data.limit=200", "clients=2", "models=mlp"]


class InProcess:
    """Runs simulations here, and remembers which."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []
        self.stopped = 0

    def run(self, planned: PlannedRun, *, out: Path) -> dict[str, Any]:
        self.ran.append((planned.method, planned.seed))
        return simulate(planned.resolved, out=out)

    def stop(self) -> None:
        self.stopped += 1


def done(method: str, seed: int, value: float | None, *, place: int, scenario: str = "iid") -> Any:
    return ComparedRun(
        place=place,
        scenario=scenario,
        method=method,
        seed=seed,
        against="edgefd",
        summary={"accuracy_mean": value, "bytes_up": 1200, "run_dir": f"runs/{method}{seed}"},
        reused=False,
    )


def table_of(values: dict[str, list[float]]) -> list[Any]:
    pairs = [(method, seed, v) for method in values for seed, v in enumerate(values[method])]
    return [done(method, seed, v, place=n) for n, (method, seed, v) in enumerate(pairs)]


# What is planned


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b , c", ["a", "b", "c"]),
        ("{mlp: 4, cnn_small: 6}", ["{mlp: 4, cnn_small: 6}"]),
        ("edgefd,{name: edgefd, x: [1,2]}", ["edgefd", "{name: edgefd, x: [1,2]}"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("", [""]),
    ],
)
def test_lists_are_split_outside_brackets_only(text: str, parts: list[str]) -> None:
    assert split_list(text) == parts


def test_a_plan_is_every_combination_seed_by_seed() -> None:
    made = plan(["scenario=iid,dirichlet", "method=fedmd,edgefd", "seeds=2", "seed=7", "rounds=3"])
    assert [(r.seed, r.scenario, r.method) for r in made.runs] == [
        (seed, scenario, method)
        for seed in (7, 8)
        for scenario in ("iid", "dirichlet")
        for method in ("fedmd", "edgefd")
    ]
    assert [r.place for r in made.runs] == list(range(8))
    assert {r.against for r in made.runs} == {"fedmd"}
    assert {(r.resolved.rounds, r.resolved.seed == r.seed) for r in made.runs} == {(3, True)}
    assert made.runs[0].overrides == ("scenario=iid", "method=fedmd", "seed=7", "rounds=3")


def test_without_arguments_three_methods_meet_on_three_seeds() -> None:
    made = plan([], plugins=["mine.py"])
    assert {r.scenario for r in made.runs} == {"noniid_strong"}
    assert [r.method for r in made.runs[:3]] == ["edgefd", "fedmd", "own_only"]
    assert [r.seed for r in made.runs[::3]] == [0, 1, 2]
    assert made.plugins == ("mine.py",)


@pytest.mark.parametrize(
    ("words", "seeds"), [("3,7,9", [3, 7, 9]), ("[3, 7]", [3, 7]), ("[4]", [4])]
)
def test_listed_seeds_are_those(words: str, seeds: list[int]) -> None:
    assert [r.seed for r in plan(["method=fedmd", f"seeds={words}"]).runs] == seeds


def test_braces_reach_every_run_whole() -> None:
    made = plan(["method=edgefd,fedmd", "seeds=1", "models={mlp: 4, cnn_small: 6}"])
    assert [r.resolved.models for r in made.runs] == [{"mlp": 4, "cnn_small": 6}] * 2


def test_settings_of_one_method_are_compared_as_methods() -> None:
    soft = "{name: edgefd, distiller: {temperature: 1}}"
    first, second = plan([f"method=edgefd,{soft}", "seeds=1"]).runs
    assert second.method == soft
    assert first.resolved.method != second.resolved.method


def test_any_other_list_makes_every_method_as_many() -> None:
    lists = ["method=edgefd,fedmd", "attack=null,{name: alie, clients: 3}"]
    made = plan([*lists, "method.aggregator=mean,median", "seeds=1", "rounds=3"])
    words = [
        f"attack={attack} method.aggregator={aggregator}"
        for attack in ("null", "{name: alie, clients: 3}")
        for aggregator in ("mean", "median")
    ]
    expected = [f"{method} {word}" for method in ("edgefd", "fedmd") for word in words]
    assert [run.method for run in made.runs] == expected
    assert {run.against for run in made.runs} == {expected[0]}
    resolved = [run.resolved for run in made.runs]
    assert [len(one.attackers()) for one in resolved] == [0, 0, 3, 3] * 2
    assert [describe(one.method)["aggregator"]["name"] for one in resolved] == [
        "mean",
        "median",
    ] * 4
    assert {one.rounds for one in resolved} == {3}
    assert len({scenario_hash(one) for one in resolved}) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["method=edgefd,fedmed"], r"method=fedmed.*did you mean 'fedmd'"),
        (["scenario=iid,dirichlett"], r"dirichlett.*did you mean 'dirichlet'"),
        (["roundz=3"], r"roundz.*did you mean 'rounds'"),
        (["method=fedavg,fedmd", "models={mlp: 4, cnn_small: 6}"], r"method=fedavg: .*averaged"),
        (["rounds=3,0"], r"method=edgefd rounds=0: rounds: 0 is refused"),
        (["rounds=3,4", "rounds=5"], r"rounds=5: rounds was given before"),
        (["rounds=5", "rounds=3,4"], r"rounds=3,4: rounds was given before"),
        (["roundz=3,4"], r"roundz.*did you mean 'rounds'"),
        (["attack=null,alei"], r"attack=alei: attack.*did you mean 'alie'"),
        (["seeds=0"], r"seeds=0"),
        (["seeds=two"], r"'two' is not a whole number"),
        (["seeds=-1"], r"'-1' is not a whole number"),
        (["seeds={partition: 0}"], r"seeds=\{partition: 0\}"),
        (["seeds=3,3"], r"'3' stands there twice"),
        (["seeds=1,2", "seed=4"], r"seed=4 means nothing"),
        (["method=edgefd,"], r"name between commas is missing"),
        (["method=edgefd", "method=fedmd"], r"method was given before"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(arguments: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plan(arguments)


# What is run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ComparedRun]]:
    """Two methods on two seeds, each run once."""
    out = tmp_path_factory.mktemp("runs")
    made = plan([*TINY, "method=edgefd,fedmd", "seeds=2"])
    return out, list(run_plan(made, out=out, jobs=1, runner=InProcess()))


def test_runs_are_on_the_same_data_and_yielded_once(finished: Any) -> None:
    _, runs = finished
    assert sorted(run.place for run in runs) == [0, 1, 2, 3]
    assert not any(run.reused for run in runs)
    assert {run.summary["status"] for run in runs} == {"finished"}
    assert {(run.method, run.seed) for run in runs} == {
        (run.summary["method"], run.summary["seed"]) for run in runs
    }


def test_finished_runs_are_reused_and_only_missing_ones_are_made(
    finished: Any, tmp_path: Path
) -> None:
    first_out, before = finished
    out = tmp_path / "moved"
    shutil.copytree(first_out, out)
    runner = InProcess()
    made = plan([*TINY, "method=edgefd,fedmd,own_only", "seeds=2"])
    runs = list(run_plan(made, out=out, jobs=1, runner=runner))
    assert sorted(runner.ran) == [("own_only", 0), ("own_only", 1)]
    hashes = {(run.method, run.seed): run.summary["result_hash"] for run in before}
    reused = [run for run in runs if run.reused]
    assert {(r.method, r.seed): r.summary["result_hash"] for r in reused} == hashes
    assert all(Path(run.summary["run_dir"]).parent == out for run in runs)


def test_another_setting_is_another_run(finished: Any) -> None:
    out, _ = finished
    made = plan([*TINY, "method=fedmd", "seeds=1", "proxy.fraction=0.4"])
    with pytest.raises(RunStopped, match="not run here"):
        list(run_plan(made, out=out, jobs=1, runner=Failing()))


class Failing(InProcess):
    """Refuses every run."""

    def run(self, planned: PlannedRun, *, out: Path) -> dict[str, Any]:
        raise RunStopped("not run here")


def test_closing_the_stream_ends_what_is_under_way(tmp_path: Path) -> None:
    class Blocking(InProcess):
        def __init__(self) -> None:
            super().__init__()
            self.free = threading.Event()

        def run(self, planned: PlannedRun, *, out: Path) -> dict[str, Any]:
            self.ran.append((planned.method, planned.seed))
            if planned.seed > 0:
                assert self.free.wait(30)
            return {"run_dir": "x"}

        def stop(self) -> None:
            self.free.set()

    runner = Blocking()
    stream = run_plan(plan(["method=fedmd", "seeds=6"]), out=tmp_path, jobs=2, runner=runner)
    assert next(stream).seed == 0
    stream.close()  # type: ignore[attr-defined]
    assert runner.free.is_set()
    assert len(runner.ran) < 6


def test_negative_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs: -1"):
        list(run_plan(plan(["method=fedmd", "seeds=1"]), out=tmp_path, jobs=-1))


def children(tmp_path: Path, body: str, **options: Any) -> Children:
    script = tmp_path / "child.py"
    script.write_text("import json, os, sys, time\n" + body)
    return Children(command=(sys.executable, str(script)), **options)


def test_a_child_gets_the_run_and_one_thread_and_its_last_line_is_read(tmp_path: Path) -> None:
    body = "print('hello')\nprint(json.dumps({'argv': sys.argv[1:], **os.environ}))"
    planned = plan(["scenario=iid", "method=fedmd", "seeds=[4]", "rounds=2"]).runs[0]
    summary = children(tmp_path, body, plugins=["a.py"]).run(planned, out=tmp_path)
    words = ["--json", "--quiet", "--plugin", "a.py", "--out", str(tmp_path)]
    words += ["scenario=iid", "method=fedmd", "seed=4", "rounds=2"]
    assert summary["argv"] == words
    assert summary["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("sys.stderr.write('Traceback\\nfedkd: no data at x\\n'); sys.exit(2)", "no data at x"),
        ("sys.exit(3)", "exit code 3"),
        ("print('all good')", "'all good' is no summary"),
    ],
)
def test_a_failing_child_is_named_and_quoted(tmp_path: Path, body: str, says: str) -> None:
    planned = plan(["scenario=iid", "method=fedmd", "seeds=1"])
    with pytest.raises(RunStopped, match=rf"^scenario=iid method=fedmd seed=0: {says}$"):
        list(run_plan(planned, out=tmp_path, jobs=1, runner=children(tmp_path, body)))


def test_stopping_terminates_children_and_starts_no_more(tmp_path: Path) -> None:
    runner = children(tmp_path, "open(sys.argv[4] + '/up', 'w').close(); time.sleep(120)")
    planned = plan(["scenario=iid", "method=fedmd", "seeds=1"]).runs[0]
    failures: list[str] = []

    def run() -> None:
        with pytest.raises(RunStopped) as e:
            runner.run(planned, out=tmp_path)
        failures.append(str(e.value))

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    runner.stop()
    thread.join(30)
    assert failures == ["scenario=iid method=fedmd seed=0: exit code -15"]
    with pytest.raises(RunStopped, match="not started"):
        runner.run(planned, out=tmp_path)


# What the table says


def test_two_seeds_have_a_closed_form() -> None:
    # With one degree of freedom Student's t is the Cauchy distribution: its 97.5 % quantile is
    # tan(0.475 pi) and P(|T| > t) = 1 - 2 atan(t) / pi.
    base, other = rows(table_of({"edgefd": [0.5, 0.7], "fedmd": [0.6, 1.0]}))
    quantile = math.tan(0.475 * math.pi)
    assert base.mean == pytest.approx(0.6)
    assert base.ci_low == pytest.approx(0.6 - 0.1 * quantile)
    assert base.ci_high == pytest.approx(0.6 + 0.1 * quantile)
    assert (base.diff, base.diff_low, base.diff_high, base.p) == (None,) * 4
    # Differences 0.1 and 0.3: mean 0.2, standard error 0.1, t = 2.
    assert other.diff == pytest.approx(0.2)
    assert other.diff_low == pytest.approx(0.2 - 0.1 * quantile)
    assert other.diff_high == pytest.approx(0.2 + 0.1 * quantile)
    assert other.p == pytest.approx(1 - 2 * math.atan(2) / math.pi)


def test_rows_agree_with_scipy() -> None:
    drawn = np.random.default_rng(5).normal(0.6, 0.1, (2, 7))
    base, other = rows(table_of({"edgefd": list(drawn[0]), "fedmd": list(drawn[1])}))
    alone: Any = stats.ttest_1samp(drawn[0], 0).confidence_interval(0.95)
    paired: Any = stats.ttest_rel(drawn[1], drawn[0])
    assert (base.ci_low, base.ci_high) == pytest.approx((alone.low, alone.high))
    assert other.p == pytest.approx(paired.pvalue)
    between = paired.confidence_interval(0.95)
    assert (other.diff_low, other.diff_high) == pytest.approx((between.low, between.high))


def test_intervals_cover_as_often_as_they_say() -> None:
    # 4000 draws of 3 seeds: the share covered has standard deviation 0.0034; 4.5 of them are a
    # false alarm of 7e-6. An interval from the normal distribution would cover 0.81.
    drawn = np.random.default_rng(0).normal(0.6, 0.05, (4000, 3))
    ends = [interval(list(seeds))[1:] for seeds in drawn]
    covered = sum(low < 0.6 < high for low, high in ends if low and high) / len(ends)
    assert covered == pytest.approx(0.95, abs=4.5 * 0.0034)


def test_pairs_are_of_equal_seeds_whatever_the_order() -> None:
    runs = table_of({"edgefd": [0.5, 0.7, 0.6], "fedmd": [0.6, 0.8, 0.9]})
    shuffled = [runs[n] for n in (4, 2, 0, 5, 1, 3)]
    assert rows(shuffled) == rows(runs)
    without = [run for run in runs if (run.method, run.seed) != ("edgefd", 1)]
    assert rows(without)[1].diff == pytest.approx(0.2)
    assert rows(without)[1].n_seeds == 3


def test_one_seed_has_a_mean_and_a_difference_only() -> None:
    base, other = rows(table_of({"edgefd": [0.5], "fedmd": [0.6]}))
    assert (base.ci_low, base.ci_high) == (None, None)
    assert other.diff == pytest.approx(0.1)
    assert (other.diff_low, other.diff_high, other.p) == (None, None, None)


def test_a_difference_without_spread_has_no_p() -> None:
    _, other = rows(table_of({"edgefd": [0.1, 0.2, 0.3], "fedmd": [0.2, 0.3, 0.4]}))
    assert other.diff == pytest.approx(0.1)
    assert other.p is None


def test_methods_are_compared_within_their_scenario() -> None:
    runs = table_of({"edgefd": [0.5, 0.7], "fedmd": [0.6, 1.0]})
    runs += [replace(r, scenario="weak", place=r.place + 4) for r in runs]
    runs[4:6] = [replace(r, summary=r.summary | {"accuracy_mean": 0.0}) for r in runs[4:6]]
    table = rows(runs)
    assert [(r.scenario, r.method) for r in table] == [
        (scenario, method) for scenario in ("iid", "weak") for method in ("edgefd", "fedmd")
    ]
    assert [r.diff for r in table] == [None, pytest.approx(0.2), None, pytest.approx(0.8)]


def test_at_reads_the_mean_over_clients_of_that_round(finished: Any) -> None:
    _, runs = finished
    table = rows(runs, at=[1])
    assert [(r.method, r.round) for r in table] == [
        ("edgefd", 1), ("fedmd", 1), ("edgefd", None), ("fedmd", None),
    ]  # fmt: skip
    # The only round is the last one, whose mean over clients is what the summary says.
    assert [r.mean for r in table[:2]] == pytest.approx([r.mean for r in table[2:]])


def test_a_round_that_was_not_measured_is_refused(finished: Any) -> None:
    _, runs = finished
    with pytest.raises(ConfigError, match=r"seed0.*did not measure accuracy at round 9.*from: 1"):
        rows(runs, at=[9])


def test_unknown_and_absent_metrics_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'accuracy_mean'"):
        rows(table_of({"edgefd": [0.5]}), metric="acuracy_mean")
    with pytest.raises(ConfigError, match="'runs/edgefd0' has no 'accuracy_mean'"):
        rows([done("edgefd", 0, None, place=0)])


# How it is written


def printed(table: list[Row]) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(as_table(table))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_terminal_table_is_in_percent_points() -> None:
    text = printed(rows(table_of({"edgefd": [0.5, 0.5], "own_only[x]": [0.602, 0.6]})))
    assert "50.0 ± 0.0" in text
    assert "own_only[x]" in text
    assert "+10.1 ± 1.3" in text
    assert "0.006" in text


def test_other_metrics_keep_their_unit() -> None:
    text = printed(rows(table_of({"edgefd": [0.5, 0.5]}), metric="bytes_up"))
    assert "1200 ± 0" in text
    assert "percent" not in text


def of_text(method: str, seed: int, bits: float, *, place: int, folder: Path) -> Any:
    """A finished run on text, with a table of two rounds in its folder."""
    run_dir = folder / f"{method}{seed}"
    run_dir.mkdir()
    measured = [(n, client, bits + 2 - n + client) for n in (1, 2) for client in (-0.5, 0.5)]
    pd.DataFrame(
        [(n, int(client > 0), "bits_per_character", value) for n, client, value in measured],
        columns=["round", "client", "name", "value"],
    ).to_parquet(run_dir / "metrics.parquet")
    run = done(method, seed, None, place=place, scenario="text")
    figures = {"bits_per_character_mean": bits, "server_bits_per_character": 4.0 + seed / 4}
    return replace(run, summary=run.summary | figures | {"run_dir": str(run_dir)})


def text_runs(folder: Path) -> list[Any]:
    values = {"edgefd": [2.5, 2.75], "fedmd": [2.25, 2.75]}
    pairs = [(method, seed) for method in values for seed in (0, 1)]
    return [
        of_text(method, seed, values[method][seed], place=n, folder=folder)
        for n, (method, seed) in enumerate(pairs)
    ]


def test_bits_per_character_are_compared_in_bits(tmp_path: Path) -> None:
    runs = text_runs(tmp_path)
    table = rows(runs, metric="bits_per_character_mean", at=[1])
    assert [(r.method, r.round, r.mean) for r in table] == [
        ("edgefd", 1, 3.625), ("fedmd", 1, 3.5), ("edgefd", None, 2.625), ("fedmd", None, 2.5),
    ]  # fmt: skip
    text = printed(table)
    assert "bits_per_character_mean: mean" in text
    assert "percent" not in text
    assert "2.625 ± 1.588" in text
    assert "-0.125 ± 1.588" in text
    assert "percent" not in as_latex(table)
    server = rows(runs, metric="server_bits_per_character")
    assert [r.mean for r in server] == [4.125, 4.125]
    assert "4.125" in printed(server)


def test_a_figure_of_text_runs_shows_the_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def kept(figure: Any, path: Path) -> Path:
        seen.append(figure)
        return save(figure, path)

    monkeypatch.setattr(figures, "save", kept)
    runs = text_runs(tmp_path)
    figures.comparison_figure(runs, tmp_path / "bits.png", curve=figures.BITS)
    (panel,) = seen[0].axes
    assert panel.get_title(loc="left") == "text: client models' mean bits per character"
    drawn = [line.get_ydata().tolist() for line in panel.get_lines()]
    assert drawn == [[3.625, 2.625], [3.5, 2.5]]
    figures.comparison_figure(runs, tmp_path / "accuracy.png")
    assert seen[1].axes[0].get_lines()[:] == []


def test_latex_is_escaped_and_balanced() -> None:
    label = "{name: own_only, x: 50%}"
    table = rows(table_of({"edgefd": [0.5, 0.7, 0.6], label: [0.3, 0.4, 0.3]}))
    lines = as_latex(table).splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrr}"
    body = [line for line in lines if line.endswith(r"\\")]
    assert [line.replace(r"\&", "").count("&") for line in body] == [4, 4, 4]
    assert r"\{name: own\_only, x: 50\%\} & 3 & 33.3 $\pm$ 14.3 & $-$26.7" in body[2]
    assert body[1].endswith(r"& -- & -- \\")
    assert lines[0].startswith("% ")
    for line in lines[1:]:
        assert line.count("{") == line.count("}")
        assert line.count("$") % 2 == 0
    assert [line for line in lines if line.endswith("rule")] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]


def test_csv_and_json_hold_the_same_numbers() -> None:
    table = rows(table_of({"edgefd": [0.5, 0.7], "{a, b}": [0.6, 1.0]}))
    read = list(csv.DictReader(io.StringIO(as_csv(table))))
    plain = json.loads(json.dumps(as_json(table), allow_nan=False))
    assert [r["method"] for r in read] == [r["method"] for r in plain] == ["edgefd", "{a, b}"]
    for key in ("mean", "ci_low", "ci_high", "n_seeds"):
        assert [float(r[key]) for r in read] == [r[key] for r in plain]
    assert float(read[1]["p"]) == plain[1]["p"]
    assert (read[0]["p"], plain[0]["p"]) == ("", None)
    assert read[0]["runs"].split(";") == plain[0]["runs"] == ["runs/edgefd0", "runs/edgefd1"]
