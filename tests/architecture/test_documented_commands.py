"""Every fedkd command that the README and the docs quote is one that the command line accepts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fedkd.compose import compose
from fedkd.reports.comparison.plan import plan

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACEHOLDERS = re.compile(r"[<>$]|FOLDER|my_|--plugin|NAME|\.\.\.|\| ")
OPTIONS_WITH_VALUE = {
    "--out",
    "--device",
    "--jobs",
    "--at",
    "--figure",
    "--metric",
    "--plugin",
    "--to-accuracy",
}


def _quoted() -> list[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            for command in re.findall(r"fedkd (?:simulate|compare)[^`#;]*", line):
                if not PLACEHOLDERS.search(command) and "=" in command:
                    found.add((page.relative_to(ROOT).as_posix(), command.strip().rstrip("\\,.)")))
    return sorted(found)


def _words(command: str) -> list[str]:
    words, kept = iter(shlex.split(command)[2:]), []
    for word in words:
        if word in OPTIONS_WITH_VALUE:
            next(words, None)
        elif not word.startswith("--"):
            kept.append(word)
    return kept


def test_the_readme_quotes_commands():
    assert len([page for page, _ in _quoted() if page == "README.md"]) >= 3


@pytest.mark.parametrize(("page", "command"), _quoted())
def test_a_quoted_command_resolves(page: str, command: str):
    words = _words(command)
    if command.startswith("fedkd compare"):
        one_seed = [word for word in words if not word.startswith("seeds=")]
        assert plan([*one_seed, "seeds=1"]).runs
        assert plan([*(w for w in words if w.startswith("seeds=")), "method=local"]).runs
    else:
        assert compose(words).rounds >= 1
