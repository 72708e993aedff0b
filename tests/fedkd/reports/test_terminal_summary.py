"""The table that a run ends with, made from summaries by hand."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

from fedkd.reports.terminal import print_summary, share, show_progress, size, summary_table
from fedkd.results import Measurement, RoundResult, summarise
from fedkd.scenario import Scenario


def _summary(rounds: list[RoundResult]) -> dict:
    return {
        "scenario": "made",
        "method": "edgefd",
        "seed": 0,
        "rounds": 1,
        "status": "finished",
        **summarise(rounds),
        "seconds": 1.5,
        "privacy_claim": "no formal guarantee",
        "privacy_warnings": [],
        "run_dir": "runs/made",
    }


def _round(figures: dict[str, tuple[float, ...]]) -> RoundResult:
    measurements = [
        Measurement(1, -1 if name.startswith("server") else client, name, value)
        for name, values in figures.items()
        for client, value in enumerate(values)
    ]
    return RoundResult(round=1, cohort=[0, 1], measurements=measurements)


TEXT = _round(
    {
        "accuracy": (0.25, 0.5),
        "bits_per_character": (2.5, 3.0),
        "bits_per_character_distilled": (2.25, 2.5),
        "bits_per_character_local": (1.5, 2.0),
        "server_bits_per_character": (3.125,),
    }
)


def _printed(summary: dict) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    console.print(summary_table(summary))
    lines = console.file.getvalue().splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]


def test_a_text_run_is_told_in_bits_per_character():
    rows = _printed(_summary([TEXT]))
    first = next(n for n, row in enumerate(rows) if row[0] == "bits per character")
    assert rows[first : first + 4] == [
        ["bits per character", "mean 2.750  (lower is better)"],
        ["", "mean 2.375  after a closing distillation pass"],
        ["", "mean 1.750  on each client's own held-out text"],
        ["", "3.125  server model"],
    ]
    assert ["client models", "mean 37.5 %  worst 25.0 %  after the last round's training"] in rows


def test_bits_that_were_not_measured_are_left_out():
    rows = _printed(_summary([_round({"bits_per_character": (2.5, 3.0)})]))
    assert [row for row in rows if "bits" in row[0] or "server model" in row[1]] == [
        ["bits per character", "mean 2.750  (lower is better)"]
    ]


def test_other_runs_say_nothing_of_bits(capsys):
    images = _summary([_round({"accuracy": (0.25, 0.5)})])
    old = {key: value for key, value in images.items() if "bits" not in key}
    assert _printed(images) == _printed(old)
    print_summary(images)
    assert "bits" not in capsys.readouterr().out


def test_progress_tells_bits(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    show_progress(Scenario(), iter([TEXT, _round({"accuracy": (0.5,)})]))
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first == {"round": 1, "accuracy": 0.375, "bits": 2.75}
    assert second == {"round": 1, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0.0 kB"), (99_940, "99.9 kB"), (100_000, "0.10 MB"), (2_500_000, "2.50 MB")],
)
def test_sizes(n, text):
    assert size(n) == text


def test_shares():
    assert (share(0.5), share(None)) == ("50.0 %", "-")
