"""Large files of a checkpoint do not stay in the system's cache."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from fedkd import checkpoints


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
def test_large_files_are_given_up_once_they_are_hashed(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_LARGE", 100)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"a" * 99)
    large.write_bytes(b"b" * 100)
    advised: list[tuple[str, int]] = []
    advise = os.posix_fadvise

    def note(place: int, start: int, length: int, advice: int) -> None:
        advised.append((str(Path(f"/proc/self/fd/{place}").readlink()), advice))
        advise(place, start, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", note)
    found = checkpoints._checksums([small, large])
    assert found == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (small, large)
    }
    assert advised == [(str(large), os.POSIX_FADV_DONTNEED)]
