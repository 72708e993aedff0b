"""200 clients, 50 rounds, faults on: the run completes, memory is flat, the report names each loss.

    python -m bench.flaky_devices [key=value ...]

Resident memory is that of this process and its workers, after every round.
"""

from __future__ import annotations

import html
import re
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.scale import resident
from fedkd.reports.run.report import write_run_report
from fedkd.results import RoundResult
from fedkd.simulation import simulate

CELL = re.compile(r"<t[dh][^>]*>(.*?)</t[dh]>", re.DOTALL)
SETTLED = 10
"""Rounds after which every worker has seen all that it keeps."""


def named_in(page: str) -> set[tuple[int, int, str]]:
    """Return what a report's tables of three columns say: round, client, reason."""
    found: set[tuple[int, int, str]] = set()
    for line in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL):
        cells = [html.unescape(re.sub(r"<[^>]*>", "", c)) for c in re.findall(CELL, line)]
        if len(cells) != 3 or not cells[0].isdigit():
            continue
        for part in cells[1].split(", "):
            first, _, last = part.partition("-")
            clients = range(int(first), int(last or first) + 1)
            found |= {(int(cells[0]), client, cells[2]) for client in clients}
    return found


def main() -> None:
    memory: list[float] = []
    lost: list[tuple[int, int, str]] = []

    def watch(stream: Iterator[RoundResult]) -> None:
        for result in stream:
            memory.append(resident())
            lost.extend((f.round, f.client, f.reason) for f in result.failures)

    with tempfile.TemporaryDirectory() as folder:
        words = ["scenario=flaky_devices", *sys.argv[1:]]
        summary = simulate(words, out=folder, show=watch)
        page = write_run_report(Path(summary["run_dir"])).read_text(encoding="utf-8")
    settled = memory[SETTLED:-1]  # after the last round everybody is measured
    slope = statistics.linear_regression(range(len(settled)), settled).slope
    print(f"{summary['status']}, {summary['rounds_done']} rounds, result {summary['result_hash']}")
    print(
        f"resident memory: {memory[1]:.0f} MiB after round 1, {memory[SETTLED]:.0f} after round "
        f"{SETTLED}, {settled[-1]:.0f} after round {len(memory) - 2}; slope from round {SETTLED} "
        f"on {slope:+.3f} MiB a round"
    )
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(r for *_, r in lost).most_common())
    named = len(set(lost) & named_in(page))
    print(f"lost uploads: {len(lost)} ({reasons}); named in the report: {named}")
    print(f"refused deliveries: {summary['refused']}; stood in: {summary['stood_in']}")


if __name__ == "__main__":
    main()
