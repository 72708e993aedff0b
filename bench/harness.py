"""Interleaved measurements of whole commands and of callables, and the files they are kept in.

All sides of a comparison are run in turn, again and again, so that they share the machine's
weather; figures are the least and the median of each side, and ratios of these. CPU seconds and
resident memory are those of a command's whole process tree, daemons that left it included: every
process that inherited the command's tag is counted.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.job import RESULT

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "bench"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""What every side gets unless it asks for more: processes, not threads, share the cores."""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
_TAG, _PERIOD = "FEDKD_BENCH_TAG", 0.1


@dataclass(frozen=True, kw_only=True)
class Side:
    """One command of a comparison, run from the root of the repository.

    Attributes:
        name: in tables.
        command: its words.
        environment: variables on top of one thread a process.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a command.

    Attributes:
        wall: seconds from start to end.
        cpu: seconds of user and system time of the process tree. Sampled: the last tenth of a
            second of a process that its parent did not wait for is missing.
        peak_mib: largest sum of resident memory; pages shared by several processes count for each.
        result: what the command reported (:func:`bench.job.report`), empty if it did not.
        error: why it failed, empty if it did not.
    """

    wall: float
    cpu: float
    peak_mib: float
    result: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""


class _Watch(threading.Thread):
    """Adds up what all processes with one tag use, until told to stop."""

    def __init__(self, tag: str) -> None:
        super().__init__(daemon=True)
        self._tag, self._done = tag, threading.Event()
        self._ours: dict[tuple[int, float], bool] = {}
        self._cpu: dict[tuple[int, float], float] = {}
        self.peak = 0

    @property
    def cpu(self) -> float:
        return sum(self._cpu.values())

    def stop(self) -> None:
        self._look()
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(_PERIOD):
            self._look()

    def _look(self) -> None:
        resident = 0
        for process in psutil.process_iter(["create_time"]):
            key = (process.pid, process.info["create_time"])
            try:
                if not self._is_ours(process, key):
                    continue
                with process.oneshot():
                    times = process.cpu_times()
                    resident += process.memory_info().rss
                self._cpu[key] = times.user + times.system
            except (psutil.Error, OSError):
                continue
        self.peak = max(self.peak, resident)

    def _is_ours(self, process: psutil.Process, key: tuple[int, float]) -> bool:
        # A process that was forked but has not yet become its command still has our variables.
        young = time.time() - key[1] < 2
        if key not in self._ours or (young and not self._ours[key]):
            self._ours[key] = process.environ().get(_TAG) == self._tag
        return self._ours[key]


def run(side: Side, *, limit: float = 1800.0) -> Trial:
    """Run a command once and watch its process tree; ends it after ``limit`` seconds."""
    tag = uuid.uuid4().hex
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    environment = os.environ | ONE_THREAD | QUIET | {"PYTHONPATH": path, _TAG: tag}
    with tempfile.TemporaryFile("w+") as said:
        before, started = os.times(), time.perf_counter()
        process = subprocess.Popen(
            side.command,
            cwd=ROOT,
            env=environment | side.environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watch = _Watch(tag)
        watch.start()
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        wall, after = time.perf_counter() - started, os.times()
        watch.stop()
        waited = sum(after[2:4]) - sum(before[2:4])
        said.seek(0)
        lines = said.read().splitlines()
    found = [json.loads(line.split(RESULT, 1)[1]) for line in lines if RESULT + "{" in line]
    return Trial(
        wall=wall,
        cpu=max(watch.cpu, waited),
        peak_mib=watch.peak / 2**20,
        result=found[-1] if found else {},
        error="" if code == 0 else f"ended with {code}: " + " / ".join(lines[-3:])[-300:],
    )


def interleave(sides: Sequence[Side], *, repeats: int) -> dict[str, list[Trial]]:
    """Run all commands in turn, ``repeats`` times, every other time backwards."""
    trials: dict[str, list[Trial]] = {side.name: [] for side in sides}
    for n in range(repeats):
        for side in sides if n % 2 == 0 else reversed(sides):
            trial = run(side)
            trials[side.name].append(trial)
            told = trial.error or f"{trial.wall:.1f} s, CPU {trial.cpu:.1f} s"
            print(f"  {n + 1}/{repeats} {side.name}: {told}", file=sys.stderr, flush=True)
    return trials


@dataclass(frozen=True)
class Seconds:
    """Seconds of one call in this process: of the clock, and of all its threads' CPU time."""

    wall: float
    cpu: float


def interleave_calls(
    calls: Mapping[str, Callable[[], object]], *, repeats: int, warm_ups: int = 1
) -> dict[str, list[Seconds]]:
    """Call all sides in turn, ``repeats`` times, without garbage collection inside a call."""
    for _ in range(warm_ups):
        for call in calls.values():
            call()
    taken: dict[str, list[Seconds]] = {name: [] for name in calls}
    for n in range(repeats):
        for name in calls if n % 2 == 0 else reversed(calls):
            gc.collect()
            gc.disable()
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            taken[name].append(Seconds(time.perf_counter() - wall, time.process_time() - cpu))
            gc.enable()
    return taken


def peak_growth_mib(call: Callable[[], object]) -> float:
    """Return by how much a call raises resident memory at its peak, measured in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what there is now
        before = _resident("VmRSS")
        call()
        os.write(write, json.dumps(_resident("VmHWM") - before).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    if not said:
        raise RuntimeError("the measured call raised; run it outside peak_growth_mib to see why")
    return json.loads(said) / 1024


def _resident(key: str) -> int:
    """Return a figure of /proc/self/status in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def least_and_median(values: Iterable[float]) -> dict[str, float]:
    """Return the two figures that are reported of every sample."""
    kept = list(values)
    return {"min": min(kept), "median": statistics.median(kept)}


def ratios(values: Iterable[float], base: Iterable[float]) -> dict[str, float]:
    """Return min over min and median over median; above 1 means slower than the base."""
    ours, theirs = least_and_median(values), least_and_median(base)
    return {key: ours[key] / theirs[key] for key in ours}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a result file; docs/performance.md takes it over as it is."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return it as Markdown, its columns aligned for a terminal."""
        lines = [list(self.columns), *map(list, self.rows)]
        widths = [max(len(line[n]) for line in lines) for n in range(len(self.columns))]
        padded = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        ]
        rule = "|" + "|".join("-" * (width + 2) for width in widths)
        return "\n".join(
            f"{line} |".replace("- |", "-|") for line in (padded[0], rule, *padded[1:])
        )


def figure(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def pair(values: Mapping[str, float]) -> str:
    """Return ``min / median`` of a sample or of ratios."""
    return f"{figure(values['min'])} / {figure(values['median'])}"


_GEMM = """
import sys, time, torch
torch.set_num_threads(1)
n, end, best = int(sys.argv[1]), time.time() + float(sys.argv[2]), 1e9
a, b = torch.randn(n, n), torch.randn(n, n)
products = [lambda: torch.mm(a, b)]
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    onednn = torch.ops.mkldnn._linear_pointwise
    products.append(lambda: onednn(a, b, None, "none", [], ""))
while time.time() < end:
    for product in products:
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
print(2 * n**3 / best)
"""


def gemm_peak(*, side: int = 1024, seconds: float = 2.0) -> float:
    """Return the measured float32 GEMM peak in FLOP/s: a process a core, each with one thread.

    It is that of MKL or of oneDNN, whichever torch is faster with on this processor.
    """
    command = [sys.executable, "-c", _GEMM, str(side), str(seconds)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)
        for _ in range(os.cpu_count() or 1)
    ]
    return sum(float(process.communicate()[0]) for process in running)


def machine() -> dict[str, Any]:
    """Describe this machine; ``load`` is how busy it already was."""
    names = {
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    return {
        "processor": ", ".join(sorted(names)) or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages of this environment."""
    return {name: importlib.metadata.version(name) for name in packages}


def save(
    name: str,
    *,
    settings: Mapping[str, Any],
    samples: Mapping[str, Any],
    tables: Mapping[str, Table],
    packages: Mapping[str, Mapping[str, str]],
    out: Path = RESULTS,
) -> None:
    """Write ``<out>/<name>.json`` and print its tables.

    Args:
        name: of the file, without its suffix.
        settings: of the command, so that it can be repeated.
        samples: everything that was measured, side by side.
        tables: what the page shows of it, by the name under which it asks for them.
        packages: versions by side.
        out: the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    payload = {
        "schema": 1,
        "name": name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": packages,
        "settings": settings,
        "tables": {key: asdict(table) for key, table in tables.items()},
        "samples": samples,
    }
    (out / f"{name}.json").write_text(json.dumps(payload, indent=1) + "\n", encoding="utf-8")
    for key, table in tables.items():
        print(f"\n{name}: {key}\n{table.text()}")


def as_samples(trials: Mapping[str, Sequence[Trial]]) -> dict[str, list[dict[str, Any]]]:
    """Return trials as plain data."""
    return {name: [asdict(trial) for trial in tried] for name, tried in trials.items()}
