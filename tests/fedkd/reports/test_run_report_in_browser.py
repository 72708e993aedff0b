"""The run report as people see it: in Chromium, on a desk and on a phone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedkd.reports.run.report import write_run_report
from fedkd.results import Failure, Measurement, RoundResult
from fedkd.run_folder import RunFolder
from fedkd.scenario import Scenario
from tests.fedkd.reports.browser import look

LEAST_TEXT = 8.0
"""Pixels high: smaller words in pictures cannot be read."""
LONG = "a word without any blank " + "x" * 300


def _run(tmp_path: Path, simulated, name: str) -> Path:
    if name == "long":
        return _long(tmp_path)
    overrides = ("transcript=last", "server_model=mlp") if name == "whole" else ("method=local",)
    return Path(shutil.copytree(simulated(*overrides).path, tmp_path / "run"))


def _long(tmp_path: Path) -> Path:
    """Write a run whose texts are long and whose table has all columns."""
    scenario = Scenario(name="x" * 60, description=LONG, rounds=1, clients=2, models="mlp")
    names = ("accuracy", "accuracy_local", "accuracy_distilled", "bits_per_character")
    result = RoundResult(
        round=1,
        cohort=[0, 1],
        measurements=[Measurement(1, c, name, 0.5) for name in names for c in (0, 1)],
        failures=[Failure(1, 1, f"dropped: {LONG}")],
        left_out=[1],
    )
    folder = RunFolder.create(tmp_path, scenario)
    with folder:
        for _ in folder.record(iter([result])):
            pass
    return folder.path


@pytest.mark.browser
@pytest.mark.parametrize(("name", "pictures"), [("whole", 5), ("local", 2), ("long", 2)])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_run_report_fits_the_screen(tmp_path, simulated, name, pictures, width):
    page = write_run_report(_run(tmp_path, simulated, name))
    seen = look(page, width=width, folder=tmp_path)
    assert seen["width"] <= width, "the page scrolls sideways"
    assert seen["requests"] == []
    assert "This sentence, and no stronger one, may be said about the run:" in seen["words"]
    assert len(seen["svg"]) == pictures
    widths, heights = zip(*seen["svg"], strict=True)
    assert min(widths) > 300
    assert max(widths) < min(width, 577)
    assert min(heights) > 150
    assert min(seen["text"]) >= LEAST_TEXT
