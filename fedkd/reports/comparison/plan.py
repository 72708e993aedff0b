"""Compare methods over seeds: the same partitions and first weights for each, run by run.

A comparison is split into single runs, all of them are checked, the finished ones are taken from
the output folder, and the missing ones are run in child processes. ``table`` turns
runs into means, intervals and tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from fedkd.compose import DEFAULT_SCENARIO, compose
from fedkd.errors import ConfigError
from fedkd.reports.comparison.child_runs import Children, PlannedRun, Runner
from fedkd.run_files import finished_run

DEFAULT_METHODS = "edgefd,fedmd,own_only"
DEFAULT_SEEDS = 3
FIXED = ("scenario", "method", "seeds", "seed")
OPENING, CLOSING, QUOTES = "([{", ")]}", "'\""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every run of a comparison, seed by seed, so that an interrupted one leaves whole pairs.

    Attributes:
        runs: all combinations of scenarios, methods and seeds, checked.
        plugins: the files that register the user's own components; children load them too.
    """

    runs: tuple[PlannedRun, ...]
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run of a comparison that is done.

    Attributes:
        place: its position in the plan; runs are done in any order.
        scenario: as it was named in the arguments.
        method: as it was named in the arguments, with the values of all other lists.
        seed: root of the run's random streams.
        against: the method the others are tested against, the first one named.
        summary: the keys of ``summary.json``; ``run_dir`` is where it lies now.
        reused: whether it had been run before.
    """

    place: int
    scenario: str
    method: str
    seed: int
    against: str
    summary: dict[str, Any]
    reused: bool


def plan(arguments: Sequence[str], *, plugins: Sequence[str] = ()) -> Plan:
    """Split the lists of a comparison and check every run in it; nothing is trained.

    Args:
        arguments: ``scenario=A,B``, ``method=M,N`` and ``seeds=5`` (that many, from ``seed=``
            on), ``seeds=3,7`` or ``seeds=[3,7]`` (those). Any other list makes every method as
            many methods: ``method.aggregator=mean,median``. One value is an override for every
            run. A method with two settings is two methods, too:
            ``method=edgefd,{name: edgefd, distiller: {temperature: 1}}``.
        plugins: passed on to the children; load them here first (``plugins.load_plugins``).

    Raises:
        ConfigError: a combination cannot be run; the message names it.
    """
    lists, others = _sorted_out(arguments)
    scenarios = _named(lists.get("scenario", DEFAULT_SCENARIO), "scenario")
    methods = _variants(lists)
    combinations = [
        (seed, scenario, method)
        for seed in _seeds(lists.get("seeds"), lists.get("seed"))
        for scenario in scenarios
        for method in methods
    ]
    runs: list[PlannedRun] = []
    for place, (seed, scenario, method) in enumerate(combinations):
        chosen = (f"scenario={scenario}", *methods[method], f"seed={seed}")
        overrides = (*chosen, *others)
        try:
            resolved = compose(overrides)
        except ConfigError as error:
            raise ConfigError(f"scenario={scenario} method={method}: {error}") from None
        run = PlannedRun(
            place=place,
            scenario=scenario,
            method=method,
            seed=seed,
            against=next(iter(methods)),
            overrides=overrides,
            resolved=resolved,
        )
        runs.append(run)
    return Plan(runs=tuple(runs), plugins=tuple(plugins))


def run_plan(
    plan: Plan, *, out: Path, jobs: int = 0, runner: Runner | None = None
) -> Iterator[ComparedRun]:
    """Yield every run of a plan as soon as it is done: first the finished ones, then new ones.

    Ctrl-C, a failure or closing the iterator ends the runs that are under way; finished runs
    stay, and the same plan goes on from there.

    Args:
        plan: what to run.
        out: where run folders are looked for and made.
        jobs: runs at once; 0 means one a core.
        runner: how a single run is made; child processes when None.

    Raises:
        ConfigError: ``jobs`` is negative.
        RunStopped: a run failed; the message names it and quotes its last line.
    """
    if jobs < 0:
        raise ConfigError(f"jobs: {jobs} runs at once; give 1 or more, or 0 for one a core")
    missing: list[PlannedRun] = []
    for planned in plan.runs:
        summary = finished_run(out, planned.resolved)
        if summary is None:
            missing.append(planned)
        else:
            yield _done(planned, summary, reused=True)
    if missing:
        yield from _run(missing, runner or Children(plugins=plan.plugins), out=out, jobs=jobs)


def _run(
    missing: Sequence[PlannedRun], runner: Runner, *, out: Path, jobs: int
) -> Iterator[ComparedRun]:
    pool = ThreadPoolExecutor(max_workers=jobs or os.cpu_count() or 1)
    try:
        futures = {pool.submit(runner.run, planned, out=out): planned for planned in missing}
        for future in as_completed(futures):
            yield _done(futures[future], future.result(), reused=False)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        runner.stop()
        pool.shutdown(wait=True)


def _done(planned: PlannedRun, summary: dict[str, Any], *, reused: bool) -> ComparedRun:
    return ComparedRun(
        place=planned.place,
        scenario=planned.scenario,
        method=planned.method,
        seed=planned.seed,
        against=planned.against,
        summary=summary,
        reused=reused,
    )


def split_list(text: str) -> list[str]:
    """Split at the commas that stand outside brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        else:
            depth += (letter in OPENING) - (letter in CLOSING)
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _sorted_out(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the values that a comparison varies, by key, and all other overrides."""
    lists: dict[str, str] = {}
    others: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        listed = key in FIXED or len(split_list(value)) > 1
        if key in lists or (listed and any(other.startswith(f"{key}=") for other in others)):
            raise ConfigError(f"{argument}: {key} was given before; write one list, {key}=A,B")
        if listed:
            lists[key] = value.strip()
        else:
            others.append(argument)
    return lists, others


def _variants(lists: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the overrides of every method, by its name and the values of all other lists."""
    varied = {key: _named(text, key) for key, text in lists.items() if key not in FIXED}
    variants: dict[str, tuple[str, ...]] = {}
    for method in _named(lists.get("method", DEFAULT_METHODS), "method"):
        for values in product(*varied.values()):
            words = tuple(f"{key}={value}" for key, value in zip(varied, values, strict=True))
            variants[" ".join((method, *words))] = (f"method={method}", *words)
    return variants


def _named(text: str, key: str) -> list[str]:
    names = split_list(text)
    for n, name in enumerate(names):
        if not name:
            raise ConfigError(f"{key}={text}: a name between commas is missing")
        if name in names[:n]:
            raise ConfigError(f"{key}={text}: {name!r} stands there twice; name it once")
    return names


def _seeds(text: str | None, first: str | None) -> list[int]:
    """Return the seeds: a lone number counts them, from ``first`` on; a list names them."""
    start = _whole(first or "0", f"seed={first}")
    listed = text is not None and (text.startswith("[") or "," in text)
    if text is None or not listed:
        count = DEFAULT_SEEDS if text is None else _whole(text, f"seeds={text}")
        if count == 0:
            raise ConfigError(f"seeds={text}: no seeds; give 1 or more")
        return list(range(start, start + count))
    if first is not None:
        raise ConfigError(f"seed={first} means nothing beside the list seeds={text}; drop one")
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return [_whole(word, f"seeds={text}") for word in _named(inside, "seeds")]


def _whole(word: str, where: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise ConfigError(f"{where}: {word!r} is not a whole number of 0 or more")
    return int(word)
