"""bandit finds nothing that is not answered, in the source and in docs/security.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ["fedkd", "clients", "server"]


def _bandit(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", "-r", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_bandit_is_clean():
    done = _bandit(*FOLDERS)
    assert done.returncode == 0, done.stdout


def test_bandit_would_say_so(tmp_path):
    (tmp_path / "bad.py").write_text("import pickle\npickle.loads(b'')\n")
    assert _bandit(tmp_path).returncode == 1


def test_every_answer_names_its_finding_and_its_reason_and_is_in_the_docs():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    answers = [
        (path, line)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "nosec" in line
    ]
    assert answers
    for path, line in answers:
        found = re.search(r"# nosec (B\d{3})  # \w.{8,}", line)
        assert found, f"{path}: {line}"
        assert found[1] in page
        assert path.name in page or f"{path.parent.name}/`" in page, path
