"""Hides whatever data sets the machine running the tests has."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkd.data.datasets import base


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDKD_DATA", str(tmp_path / "from_env"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(base, "SYSTEM_FOLDER", tmp_path / "system")
