"""A coverage-guided fuzzer finds nothing in a minute; it would find what is there to be found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 60
pytestmark = pytest.mark.slow

PLANTED = """
import sys
sys.argv = ["fuzz", *sys.argv[1:]]
from tests.fuzz import fuzz_decoder  # instruments what it imports
from tests.fuzz import harness
whole = harness.unpack
def unpack(data):
    header, blobs = whole(data)
    if blobs and len(blobs[0]) == 3 and blobs[0] != b"abc":
        raise RuntimeError("planted")
    return header, blobs
harness.unpack = unpack
fuzz_decoder.main()
"""
"""Only a frame that is whole again after it was changed gets that far."""


def _fuzz(corpus: Path, *start: str, seconds: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *start, str(corpus), str(seconds)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 240,
        check=False,
    )


def _left(corpus: Path) -> list[str]:
    return [p.name for p in corpus.iterdir() if p.name.startswith(("crash", "oom", "timeout"))]


def test_a_minute_finds_nothing(tmp_path):
    done = _fuzz(tmp_path, "-m", "tests.fuzz.fuzz_decoder", seconds=SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    assert _left(tmp_path) == []
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed is not None
    assert int(executed[1]) > 10_000, "it spent its time elsewhere"


def test_a_planted_fault_is_found(tmp_path):
    done = _fuzz(tmp_path, "-c", PLANTED, seconds=SECONDS)
    assert done.returncode != 0
    assert "RuntimeError: planted" in done.stdout + done.stderr
    assert _left(tmp_path)
