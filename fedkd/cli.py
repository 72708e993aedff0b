"""The ``fedkd`` command: it parses words and hands over; everything heavy is imported late.

Exit codes: 0 done; 1 the run stopped or something failed; 2 the command or scenario is wrong;
3 a replay gave another result; 4 an audit's condition came true (--fail-on, --fail); 130
interrupted by Ctrl-C.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fedkd import collector
from fedkd.cli_audit import Options as AuditOptions
from fedkd.cli_audit import add_audit, audit_run, check_auditable
from fedkd.cli_catalogue import add_catalogue
from fedkd.cli_deploy import add_deployment
from fedkd.cli_privacy import privacy_app

EXIT_FAILED, EXIT_USAGE, EXIT_DIFFERENT, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="fedkd",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated, privacy-preserving distillation: simulate, compare, show, replay.",
)
app.add_typer(privacy_app(lambda: _errors_explained()), name="privacy")
add_catalogue(app, lambda: _errors_explained())
add_audit(app, lambda: _errors_explained())
add_deployment(app, lambda: _errors_explained())


class DeviceChoice(StrEnum):
    """Where tensors live."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[scenario=NAME] [key=value]...",
        help="Hydra override grammar, e.g. rounds=5 method=fedmd method.distiller.temperature=1 "
        "partition=dirichlet 'models={cnn_small: 4, mlp: 6}'.",
    ),
]
Out = Annotated[Path, typer.Option(help="The folder in which run folders are made.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="A Python file of yours that registers components."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")]
Run = Annotated[Path, typer.Argument(help="A run folder.")]


@app.command()
def simulate(
    overrides: Overrides = None,
    out: Out = Path("runs"),
    device: Annotated[DeviceChoice | None, typer.Option(help="Where to compute.")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    smoke: Annotated[bool, typer.Option(help="The scenario's smallest honest run.")] = False,
    ledger: Annotated[
        Path | None,
        typer.Option(help="A folder of client privacy ledgers that outlive the run."),
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Audit the finished run, as fedkd audit does.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Run one scenario; the default is noniid_strong."""
    words = list(overrides or [])
    if device is not None:
        words.append(f"runtime.device={device.value}")
    with _errors_explained():
        from fedkd.compose import compose
        from fedkd.plugins import load_plugins
        from fedkd.simulation import new_run

        load_plugins(plugin or [])
        scenario = compose(words, smoke=smoke)
        if audit:
            check_auditable(scenario.transcript)
        folder = new_run(scenario, out=out)
    _run(folder, as_json=as_json, quiet=quiet, ledgers=ledger)
    if audit:
        with _errors_explained():
            code = audit_run(folder.path, AuditOptions(as_json=as_json, quiet=quiet))
        if code:
            raise typer.Exit(code)


@app.command()
def compare(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[scenario=A,B] [method=M,N] [seeds=5] [key=value]...",
            help="Comma lists of scenarios and methods; seeds=5 or seeds=[3,4]; other overrides "
            "go to every run.",
        ),
    ] = None,
    out: Out = Path("runs"),
    jobs: Annotated[int, typer.Option(help="Runs at once; 0 means one a core.")] = 0,
    at: Annotated[str, typer.Option(help="Also at these rounds, e.g. 10,20.")] = "",
    metric: Annotated[str, typer.Option(help="The summary key to compare.")] = "accuracy_mean",
    to_accuracy: Annotated[
        str, typer.Option(help="Also rounds, virtual seconds and joules to it, e.g. 0.7.")
    ] = "",
    as_json: AsJson = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Write the figure here (PNG).")] = None,
    plugin: Plugins = None,
) -> None:
    """Compare methods over seeds on the same partitions and initializations."""
    with _errors_explained():
        from fedkd.reports.comparison import report as comparison_report

        options = comparison_report.Options(
            out=out,
            jobs=jobs,
            at=at,
            metric=metric,
            to_accuracy=to_accuracy,
            as_json=as_json,
            latex=latex,
            csv=csv,
            figure=figure,
        )
        comparison_report.compare(list(arguments or []), options, plugins=plugin or [])


@app.command()
def resolve(overrides: Overrides = None, plugin: Plugins = None) -> None:
    """Print the resolved scenario as the run config that `flwr run --run-config` takes."""
    with _errors_explained():
        from fedkd.compose import compose
        from fedkd.plugins import load_plugins
        from fedkd.scenario import to_json

        load_plugins(plugin or [])
        typer.echo(f"scenario-json = {json.dumps(to_json(compose(list(overrides or []))))}")


@app.command()
def show(run: Run) -> None:
    """Print a finished run's table and curves; write them as PNG into its folder."""
    with _errors_explained():
        from fedkd.reports.figures import run_figure
        from fedkd.reports.terminal import print_summary
        from fedkd.reports.terminal_plot import curves
        from fedkd.run_files import read_summary

        print_summary(read_summary(run))
        typer.echo(curves(run))
        typer.echo(f"picture: {run_figure(run)}")


@app.command()
def report(run: Run, plugin: Plugins = None) -> None:
    """Write a run's report, finished or not: RUN/report.html, which opens without a network."""
    with _errors_explained():
        from fedkd.plugins import load_plugins
        from fedkd.reports.run.report import write_run_report

        load_plugins(plugin or [])
        typer.echo(write_run_report(run))


@app.command()
def resume(
    run: Run,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    ledger: Annotated[
        Path | None, typer.Option(help="The folder of client ledgers that the run began with.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Go on with a run that was killed or stopped, from its newest checkpoint to its end."""
    with _errors_explained():
        from fedkd.plugins import load_plugins
        from fedkd.simulation import resumed_run

        load_plugins(plugin or [])
        folder, notes = resumed_run(run)
    for note in notes:
        _complain(note)
    _run(folder, as_json=as_json, quiet=quiet, ledgers=ledger)


@app.command()
def replay(run: Run, out: Out = Path("runs"), plugin: Plugins = None) -> None:
    """Run again from a run folder and compare the result hash."""
    with _errors_explained():
        from fedkd.plugins import load_plugins
        from fedkd.run_files import read_scenario, read_summary
        from fedkd.simulation import new_run

        load_plugins(plugin or [])
        before = read_summary(run)
        folder = new_run(read_scenario(run), out=out)
    after = _run(folder, as_json=False, quiet=False)
    if after["result_hash"] != before["result_hash"]:
        _complain(
            f"another result: {before['result_hash']} then, {after['result_hash']} now; compare "
            f"the versions in {run}/scenario.json and {folder.path}/scenario.json"
        )
        raise typer.Exit(EXIT_DIFFERENT)
    typer.echo(f"same result: {after['result_hash']}")


def _run(folder: Any, *, as_json: bool, quiet: bool, ledgers: Path | None = None) -> dict[str, Any]:
    """Run into a folder, show progress, print the table or the JSON line."""
    from fedkd.reports.terminal import print_summary, show_progress
    from fedkd.simulation import run_into, watch_quietly

    def watch(stream: Iterator[Any]) -> None:
        show_progress(folder.scenario, stream)

    with _errors_explained(f"; {folder.path} holds what was done"):
        run_into(folder, show=watch_quietly if quiet else watch, ledgers=ledgers)
    summary = folder.summary()
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        print_summary(summary)
    return summary


@contextmanager
def _errors_explained(after: str = "") -> Generator[None]:
    """Turn what can go wrong into one line and an exit code."""
    from fedkd.errors import ConfigError, MissingDataError, RunStopped

    try:
        yield
    except ConfigError as error:
        _complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except MissingDataError as error:
        _complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    except RunStopped as error:
        _complain(f"{error}{after}")
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        _complain(f"interrupted{after}")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _complain(text: str) -> None:
    sys.stderr.write(f"fedkd: {text}\n")


def main() -> None:
    """Entry point of the console command; SIGTERM ends a run as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    collector.rarely()
    try:
        app()
    except SystemExit as ended:
        if ended.code == EXIT_INTERRUPTED and "ray" in sys.modules:
            _leave_at_once(EXIT_INTERRUPTED)  # what Ray still runs then may crash the process
        if isinstance(ended.code or 0, int) and threading.active_count() == 1:
            atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
            with suppress(OSError):  # a pipe that is closed, a full disk: Python tells it
                _leave_at_once(int(ended.code or 0))
        raise
    finally:
        collector.at_last()


def _leave_at_once(code: int) -> NoReturn:
    """Leave without finalizing: taking torch's modules down takes a fifth of a second.

    By now a Ray of ours has been shut down, and what is to be kept is on disk.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
