"""The command ``fedkd audit``: attack a finished run, hold it against another, gate a pipeline."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

Guarded = Callable[[], AbstractContextManager[None]]
"""Turns what can go wrong into one line and an exit code."""
EXIT_FAILED, EXIT_LEAKS = 1, 4
DIFF = "diff"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is audited.

    Attributes:
        against: a run to compare with, or None.
        conditions: that must not come true, such as ``eps_lb>2``.
        names: attacks; None for all.
        seed: of the attacks.
        out: where the report goes; None for ``RUN/audit``.
        as_json: print one JSON object instead of a table.
        quiet: no progress.
    """

    against: Path | None = None
    conditions: list[str] = field(default_factory=list[str])
    names: list[str] | None = None
    seed: int = 0
    out: Path | None = None
    as_json: bool = False
    quiet: bool = False


def add_audit(app: typer.Typer, guarded: Guarded) -> None:
    """Add the command to the command line."""

    @app.command()
    def audit(  # pyright: ignore[reportUnusedFunction]
        words: Annotated[
            list[str],
            typer.Argument(metavar="RUN | diff A B", help="A run folder, or two audits."),
        ],
        against: Annotated[
            Path | None, typer.Option(help="The same run with another protection, or without.")
        ] = None,
        fail_on: Annotated[
            list[str] | None,
            typer.Option("--fail-on", help="Exit code 4 if so, e.g. 'eps_lb>2'; repeatable."),
        ] = None,
        attacks: Annotated[
            str, typer.Option(help="Only these, e.g. canary_student,rmia; default all.")
        ] = "",
        seed: Annotated[int, typer.Option(min=0, help="Of the attacks' own draws.")] = 0,
        out: Annotated[
            Path | None, typer.Option(help="Where the report goes; default RUN/audit.")
        ] = None,
        fail: Annotated[
            bool, typer.Option("--fail", help="diff: exit code 4 if something got worse.")
        ] = False,
        as_json: Annotated[
            bool, typer.Option("--json", help="One JSON object as the last line.")
        ] = False,
        quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
        plugin: Annotated[list[str] | None, typer.Option("--plugin")] = None,
    ) -> None:
        """Attack a run's transcript and write a leakage report; or compare two audits."""
        with guarded():
            from fedkd.plugins import load_plugins

            load_plugins(plugin or [])
            if words[0] == DIFF:
                code = diff(_two(words[1:]), fail=fail, as_json=as_json)
            else:
                options = Options(
                    against=against,
                    conditions=fail_on or [],
                    names=[name.strip() for name in attacks.split(",")] if attacks else None,
                    seed=seed,
                    out=out,
                    as_json=as_json,
                    quiet=quiet,
                )
                code = audit_run(_one(words), options)
        if code:
            raise typer.Exit(code)


def check_auditable(kept: str) -> None:
    """Raise ConfigError, before anything is trained, for a run that will keep no transcript."""
    from fedkd.errors import ConfigError

    if kept == "none":
        raise ConfigError("transcript: 'none' leaves nothing to audit; add transcript=last")


def audit_run(run: Path, options: Options) -> int:
    """Audit a run, write and print its report; return the exit code.

    4 when a condition came true or could not be judged, else 1 when an attack failed, else 0.
    """
    from fedkd.audit.auditor import audit
    from fedkd.audit.gates import gate
    from fedkd.reports.audit.report import finite, write_audit
    from fedkd.reports.audit.terminal import print_audit, told_progress

    gates = [gate(text) for text in options.conditions]
    with told_progress(quiet=options.quiet) as progress:
        found = finite(
            audit(
                run,
                against=options.against,
                attacks=options.names,
                seed=options.seed,
                progress=progress,
            )
        )
    paths = write_audit(found, options.out or run / "audit")
    if options.as_json:
        typer.echo(json.dumps(in_short(found) | {key: str(path) for key, path in paths.items()}))
    else:
        print_audit(found, paths)
    failures = [line for one in gates for line in one.failures(found)]
    broken = [row for row in found["channels"] if row["status"] == "failed"]
    for line in failures:
        _complain(f"--fail-on {line}")
    for row in broken:
        _complain(f"the attack {row['attack']} failed: {row['reason']}")
    return EXIT_LEAKS if failures else EXIT_FAILED if broken else 0


def in_short(found: dict[str, Any]) -> dict[str, Any]:
    """Return an audit without its long lists, and with the claim as a sentence."""
    from fedkd.audit.plain import BULKY

    rows = [{k: v for k, v in row.items() if k not in BULKY} for row in found["channels"]]
    clients = [
        {key: value for key, value in client.items() if key != "by_round"}
        for client in found["ledger"]["clients"]
    ]
    return {
        **found,
        "claim": found["claim"]["sentence"],
        "claim_level": found["claim"]["level"],
        "channels": rows,
        "ledger": {**found["ledger"], "clients": clients},
    }


def diff(audits: tuple[Path, Path], *, fail: bool, as_json: bool) -> int:
    """Print what got worse from the first audit to the second; return the exit code."""
    from fedkd.audit.difference import changes, worsened
    from fedkd.reports.audit.terminal import print_changes

    before, after = (_read(path) for path in audits)
    rows = changes(after["channels"], before["channels"])
    worse = worsened(rows)
    if as_json:
        typer.echo(json.dumps({"changes": rows, "worse": worse}))
    else:
        print_changes(rows, worse)
    return EXIT_LEAKS if fail and worse else 0


def _read(path: Path) -> dict[str, Any]:
    """Return the audit in a file, in a report's folder, or in a run's folder."""
    from fedkd.errors import ConfigError

    places = [path, path / "audit.json", path / "audit" / "audit.json"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ConfigError(f"{str(path)!r} holds no audit.json; run fedkd audit first")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        kind = found.get("kind")
    except (ValueError, AttributeError):
        raise ConfigError(f"{str(file)!r} is damaged: it is no JSON object") from None
    if kind != "fedkd-audit" or found.get("schema") != 1:
        raise ConfigError(
            f"{str(file)!r} is {kind!r} of schema {found.get('schema')!r}; this fedkd reads "
            "'fedkd-audit' of schema 1"
        )
    return found


def _one(words: Sequence[str]) -> Path:
    from fedkd.errors import ConfigError

    if len(words) != 1:
        raise ConfigError(f"audit: {' '.join(words)!r} are {len(words)} words; give one run folder")
    return Path(words[0])


def _two(words: Sequence[str]) -> tuple[Path, Path]:
    from fedkd.errors import ConfigError

    if len(words) != 2:
        raise ConfigError(f"audit diff: {len(words)} audits; give two, the earlier one first")
    return Path(words[0]), Path(words[1])


def _complain(text: str) -> None:
    sys.stderr.write(f"fedkd: {text}\n")
