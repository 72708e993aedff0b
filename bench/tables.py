"""Fills the tables of docs/performance.md from docs/results/bench/*.json; nobody types a number.

    python -m bench.tables [--check]

A block of the page that begins with ``<!-- table: FILE TABLE -->`` and ends with ``<!-- end -->``
is replaced by that table of that file. ``--check`` only tells whether the page is up to date.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from bench.harness import RESULTS, ROOT, Table

PAGE = ROOT / "docs" / "performance.md"
_BLOCK = re.compile(r"(<!-- table: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def block(results: Path, file: str, key: str) -> str:
    """Return what stands in a block: where it was measured, and the table."""
    path = results / f"{file}.json"
    if not path.is_file():
        return f"*Not measured yet: `docs/results/bench/{file}.json` is missing.*\n"
    told = json.loads(path.read_text(encoding="utf-8"))
    table = Table(**told["tables"][key])
    if not table.rows:
        return "*None.*\n"
    versions = {
        f"{package} {version}"
        for side in told["versions"].values()
        for package, version in side.items()
    }
    computer = told["machine"]
    where = f"{computer['cores']} cores ({computer['processor']}), {computer['memory_gib']:.0f} GiB"
    settings = ", ".join(
        f"{name} {value}" for name, value in told["settings"].items() if not isinstance(value, list)
    )
    lines = [
        table.text(),
        "",
        f"*{told['date']}; {where}; {settings}; {', '.join(sorted(versions))}.*",
    ]
    return "\n".join(lines) + "\n"


def filled(page: str, results: Path) -> str:
    """Return the page with every block filled."""
    return _BLOCK.sub(lambda m: f"{m[1]}{block(results, m[2], m[3])}{m[4]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    read = parser.parse_args()
    old = PAGE.read_text(encoding="utf-8")
    new = filled(old, read.results)
    if read.check and new != old:
        raise SystemExit(f"{PAGE}: tables differ from {read.results}; run python -m bench.tables")
    if not read.check:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
