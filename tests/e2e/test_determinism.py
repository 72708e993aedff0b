"""One scenario has one result, in whatever process it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TINY = ["data=digits", "models={mlp: 1, cnn_small: 2}", "clients=3", "rounds=2", "data.limit=300"]


def _run(out: Path, *words: str, hash_seed: str = "0") -> dict:
    command = [sys.executable, "-m", "fedkd", "simulate", *TINY, *words]
    done = subprocess.run(
        [*command, "--json", "--quiet", "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=out,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> dict:
    return _run(tmp_path_factory.mktemp("first"), "partition=dirichlet")


def test_another_process_gives_the_same_result(first, tmp_path):
    again = _run(tmp_path, "partition=dirichlet", hash_seed="7")
    assert again["result_hash"] == first["result_hash"]
    assert again["scenario_hash"] == first["scenario_hash"]
    for key in ("accuracy_mean", "teacher_accuracy", "bytes_up", "bytes_down"):
        assert again[key] == first[key]


def test_another_seed_gives_another_result(first, tmp_path):
    other = _run(tmp_path, "partition=dirichlet", "seed=1")
    assert other["result_hash"] != first["result_hash"]
    assert other["scenario_hash"] != first["scenario_hash"]


def test_a_run_after_other_runs_in_one_process_is_the_same(play, tiny):
    digests = [r.digest for r in play(tiny())]
    play(tiny("seed=3", "method=edgefd_soft"))
    assert [r.digest for r in play(tiny())] == digests


def test_a_global_seed_is_neither_needed_nor_heard(play, tiny, global_seed):
    found = []
    for seed in (0, 1):
        with global_seed(seed):
            found.append([r.digest for r in play(tiny("models=cnn_small", "data.limit=300"))])
    assert found[0] == found[1]


@pytest.mark.parametrize("seed", ["partition", "initialization", "training"])
def test_every_separate_seed_matters(simulated, seed):
    moved = simulated(f"seeds.{seed}=9")
    assert moved.summary["result_hash"] != simulated().summary["result_hash"]
