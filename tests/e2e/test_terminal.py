"""The terminal belongs to the run: no library talks over it."""

from __future__ import annotations

import json
import subprocess
import sys


def test_private_training_prints_progress_and_no_warning(tmp_path):
    command = [sys.executable, "-m", "fedkd", "simulate", "scenario=dp_sgd", "--smoke"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "warn" not in done.stdout.lower()
    rounds = [json.loads(line)["round"] for line in done.stderr.splitlines()]
    assert rounds == [0, 1, 2]
