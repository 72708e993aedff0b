"""Figures are there, of the stated size, and show what the run's table holds."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from fedkd.errors import ConfigError
from fedkd.reports import figures
from fedkd.reports.comparison.plan import plan, run_plan
from fedkd.reports.figures import comparison_figure, run_figure
from fedkd.reports.plotting import FONT_SIZE, End, new_figure, save, write_ends
from fedkd.reports.terminal_plot import curves
from fedkd.run_files import read_metrics
from fedkd.simulation import simulate

TINY = ["scenario=iid", "rounds=2", "data=digits", "data.limit=200", "clients=2", "models=mlp"]


class InProcess:
    def run(self, planned: Any, *, out: Path) -> dict[str, Any]:
        return simulate(planned.resolved, out=out)

    def stop(self) -> None:
        pass


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(out: Path) -> list[Any]:
    made = plan([*TINY, "method=edgefd,local", "seeds=2"])
    return list(run_plan(made, out=out, jobs=1, runner=InProcess()))


def folder(runs: list[Any], method: str) -> Path:
    return Path(next(run.summary["run_dir"] for run in runs if run.method == method))


def image_of(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def colored(pixels: np.ndarray[Any, Any], color: str) -> int:
    wanted = [int(color[n : n + 2], 16) for n in (1, 3, 5)]
    return int((pixels == wanted).all(axis=-1).sum())


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved during a test."""
    seen: list[Any] = []

    def saved(figure: Any, path: Path) -> Path:
        seen.append(figure)
        return save(figure, path)

    monkeypatch.setattr(figures, "save", saved)
    return seen


def test_a_run_has_a_picture_of_1200_by_800(runs: list[Any]) -> None:
    path = run_figure(folder(runs, "edgefd"))
    assert path == folder(runs, "edgefd") / "figures" / "curves.png"
    pixels = image_of(path)
    assert pixels.shape == (800, 1200, 3)
    assert colored(pixels, "#0072B2") > 100  # clients
    assert colored(pixels, "#D55E00") > 100  # teacher


def test_the_curves_are_the_runs_numbers(runs: list[Any], kept: list[Any]) -> None:
    run_dir = folder(runs, "edgefd")
    run_figure(run_dir)
    table = read_metrics(run_dir)
    accuracy, sizes, rates = kept[0].axes
    lines = {tuple(line.get_ydata()) for line in accuracy.get_lines()}
    of_clients = table[table["name"] == "accuracy"]
    mean = tuple(100 * of_clients.groupby("round")["value"].mean())
    teacher = tuple(100 * table[table["name"] == "teacher_accuracy"]["value"])
    by_client = {tuple(100 * rows["value"]) for _, rows in of_clients.groupby("client")}
    assert lines == {mean, teacher} | by_client
    knowledge = tuple(table[table["name"] == "bytes_up.knowledge"]["value"] / 1000)
    assert knowledge in {tuple(line.get_ydata()) for line in sizes.get_lines()}
    assert {text.get_text() for text in rates.texts} == set(figures.RATES.values())
    assert "iid, edgefd, seed 0" in kept[0].get_suptitle()


def test_a_method_that_exchanges_nothing_has_a_picture_too(
    runs: list[Any], kept: list[Any]
) -> None:
    assert image_of(run_figure(folder(runs, "local"))).shape == (800, 1200, 3)
    assert len(kept[0].axes) == 2
    assert {text.get_text() for text in kept[0].axes[0].texts} == {"clients (mean)"}


def test_a_comparison_has_a_panel_a_scenario_and_a_line_a_method(
    runs: list[Any], out: Path, tmp_path: Path, kept: list[Any]
) -> None:
    path = tmp_path / "deep" / "comparison.png"
    assert comparison_figure(runs, path) == path
    assert image_of(path).shape == (750, 1050, 3)
    (panel,) = kept[0].axes
    assert {text.get_text() for text in panel.texts} == {"edgefd", "local"}
    ends = {
        method: np.mean([100 * r.summary["accuracy_mean"] for r in runs if r.method == method])
        for method in ("edgefd", "local")
    }
    drawn = [line.get_ydata()[-1] for line in panel.get_lines()]
    assert drawn == pytest.approx([ends["edgefd"], ends["local"]])
    assert len(panel.collections) == 2  # a band each


def test_bands_need_two_seeds(runs: list[Any], tmp_path: Path, kept: list[Any]) -> None:
    comparison_figure([run for run in runs if run.seed == 0], tmp_path / "one.png")
    assert len(kept[0].axes[0].collections) == 0


def test_names_of_equal_lines_do_not_overlap(tmp_path: Path) -> None:
    figure = new_figure(600, 400)
    axes = figure.subplots()
    axes.plot([1, 2], [50.0, 50.0])
    axes.set_ylim(0, 50)
    write_ends(axes, [End(2, 50.0 - n / 10, f"line {n}", "#000000") for n in range(4)])
    save(figure, tmp_path / "names.png")
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 4
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))
    assert boxes[-1].y1 <= axes.bbox.y1 + FONT_SIZE


def test_drawing_leaves_no_global_state(runs: list[Any]) -> None:
    before = dict(matplotlib.rcParams)
    run_figure(folder(runs, "local"))
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder"):
        run_figure(tmp_path)
    with pytest.raises(ConfigError, match="is no run folder"):
        curves(tmp_path, 60)


@pytest.mark.parametrize("width", [60, 130])
def test_terminal_curves_fit_the_width(runs: list[Any], width: int) -> None:
    text = curves(folder(runs, "edgefd"), width, ascii_only=False)
    lines = text.splitlines()
    assert lines[0] == "iid, edgefd, seed 0: accuracy in percent by round"
    assert max(len(line) for line in lines[1:-1]) == width
    assert "\x1b" not in text
    legend = {"▾ worst client", "▴ best client", "◆ teacher", "● mean client"}
    assert set(lines[-1].split("   ")) == legend
    assert all(any(mark[0] in line for line in lines[1:-1]) for mark in ("◆", "●"))


def test_terminal_curves_are_plain_where_the_stream_is(
    runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Latin:
        encoding = "iso-8859-1"

        def write(self, text: str) -> None: ...

        def flush(self) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Latin())
        text = curves(folder(runs, "edgefd"), 60)
    assert text.isascii()
    assert "?" not in text
    assert any("*" in line for line in text.splitlines()[1:-1])
