"""The rules of the house that a machine can hold: imports, bans, sizes, names, documentation."""

from __future__ import annotations

import ast
import importlib.metadata
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

from fedkd.methods.base import methods

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("fedkd", "clients/fedkd_clients", "server/fedkd_server", "scenarios")
    for path in (ROOT / folder).rglob("*.py")
)
OURS = {"fedkd", "fedkd_clients", "fedkd_server", "fedkd_scenarios"}
every_source = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: str(path.relative_to(ROOT))
)


def test_there_are_sources():
    assert len(SOURCES) > 60


def test_import_contracts_hold():
    command = "import sys; from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [4-9]\d* kept, 0 broken", done.stdout), done.stdout


def _code(path: Path) -> str:
    """Return the source without comments and strings, one blank between tokens."""
    skipped = {tokenize.COMMENT, tokenize.STRING, tokenize.NL, tokenize.INDENT, tokenize.DEDENT}
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return " ".join(t.string for t in tokens if t.type not in skipped)


BANNED = {
    "pickle": r"\b(c?pickle|cloudpickle|dill|joblib|marshal|shelve)\b",
    "torch.load and torch.save": r"\btorch \. (load|save)\b",
    "allow_pickle=True": r"\ballow_pickle = True\b",
    "a global torch seed": r"\btorch \. (cuda \. )?(manual_seed|seed|manual_seed_all)\b",
    "a global NumPy seed or stream": (
        r"\bnp \. random \. (?!Generator|SeedSequence|default_rng|RandomState)\w+"
    ),
    "Python's global stream": r"\bimport random\b",
    "eval and exec": r"(?<!\. )\b(eval|exec) \(",
    "print": r"(?<!\. )\bprint \(",
    "a bare except": r"\bexcept :",
}


@every_source
@pytest.mark.parametrize("what", BANNED)
def test_it_is_free_of(path, what):
    assert re.search(BANNED[what], _code(path)) is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import pickle", "pickle"),
        ("x = torch.load(f)", "torch.load and torch.save"),
        ("np.load(f, allow_pickle=True)", "allow_pickle=True"),
        ("torch.manual_seed(1)", "a global torch seed"),
        ("np.random.seed(1)", "a global NumPy seed or stream"),
        ("np.random.rand(1)", "a global NumPy seed or stream"),
        ("import random", "Python's global stream"),
        ("print(1)", "print"),
    ],
)
def test_the_bans_would_find_it(tmp_path, text, what):
    path = tmp_path / "bad.py"
    path.write_text(f'"""Text."""\n{text}\n')
    assert re.search(BANNED[what], _code(path))
    path.write_text(f'"""Never {text}."""\n# not even {text}\nrng = np.random.default_rng(0)\n')
    assert re.search(BANNED[what], _code(path)) is None


@every_source
def test_it_is_short_and_opens_with_a_sentence(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    if path.name == "__init__.py" and not text.strip():
        return
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert docstring.split("\n\n")[0].rstrip().endswith((".", "!", "?")) or "https://" in docstring


HEAVY = {"torch", "flwr", "hydra", "omegaconf", "pandas", "sklearn", "numpy", "pydantic", "scipy"}


@pytest.mark.parametrize(
    "words", [["--help"], ["simulate", "--help"], ["compare", "--help"], ["replay", "--help"]]
)
def test_help_imports_nothing_heavy(words, imported_by):
    help_lines, modules = imported_by(*words)
    assert "Usage" in "\n".join(help_lines)
    assert HEAVY & {module.split(".")[0] for module in modules} == set()


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_a_page(name):
    page = ROOT / "docs" / "methods" / f"{name}.md"
    assert page.is_file(), f"docs/methods/{name}.md is missing"
    text = page.read_text(encoding="utf-8").lower()
    for heading in ("paper", "what is implemented", "differences from the paper", "metrics"):
        assert re.search(rf"^#+ .*{heading}", text, flags=re.MULTILINE), heading
    assert re.search(r"^#+ .*results", text, flags=re.MULTILINE)


def test_only_our_names_are_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]
    assert {package.split(".")[0] for package in packages} == OURS
    on_disk = {
        ".".join(("fedkd", *p.parent.relative_to(ROOT / "fedkd").parts))
        for p in (ROOT / "fedkd").rglob("__init__.py")
    }
    assert on_disk <= set(packages), "a package that no wheel would contain"


def test_no_distribution_of_ours_owns_a_generic_name():
    owned = {
        top
        for top, distributions in importlib.metadata.packages_distributions().items()
        if "fedkd" in distributions
    }
    generic = {"clients", "server", "scenarios", "tests", "benchmarks", "examples", "docs", "bench"}
    assert owned & generic == set()
    assert importlib.metadata.metadata("fedkd")["Name"] == "fedkd"


def test_test_files_have_unique_names_and_no_packages():
    tests = ROOT / "tests"
    assert list(tests.rglob("__init__.py")) == []
    names = [path.name for path in tests.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
