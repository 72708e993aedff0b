"""The commands of a real deployment: ``fedkd certs``, ``fedkd server`` and ``fedkd client``.

``client join`` has exit codes of its own, one for each reason why a client is not let in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

Guarded = Callable[[], AbstractContextManager[None]]
"""Turns what can go wrong into one line and an exit code."""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of certificates.")]
Certs = Annotated[Path, typer.Option(help="The folder of 'fedkd certs init', or this side's part.")]
Hosts = Annotated[list[str] | None, typer.Option("--host", help="A name of the server.")]
Addresses = Annotated[list[str] | None, typer.Option("--ip", help="An address of the server.")]
Days = Annotated[int, typer.Option(help="How long the server's certificate is valid.")]
State = Annotated[Path, typer.Option(help="Where the server keeps database and logs.")]
PORT = 9092


def add_deployment(app: typer.Typer, guarded: Guarded) -> None:
    """Add the groups ``certs``, ``server`` and ``client``."""
    app.add_typer(_certs_app(guarded), name="certs")
    app.add_typer(_server_app(guarded), name="server")
    app.add_typer(_client_app(guarded), name="client")


def _certs_app(guarded: Guarded) -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, help="Certificates and keys of a deployment.")

    @app.command()
    def init(  # pyright: ignore[reportUnusedFunction]
        folder: Folder,
        host: Hosts = None,
        ip: Addresses = None,
        clients: Annotated[int, typer.Option(help="How many client keys.")] = 3,
        days: Days = 365,
    ) -> None:
        """Make an authority, a server certificate and a key for each client; never overwrites."""
        with guarded():
            from fedkd import certificates

            certificates.init(
                folder, hosts=host or [], addresses=ip or [], n_clients=clients, days=days
            )
            typer.echo(f"{folder}/server    copy to the server, if it is another machine")
            typer.echo(f"{folder}/client-N  copy to client N (0 to {clients - 1}), and only there")
            typer.echo(f"{folder}/ca.key    keep offline: it signs 'fedkd certs renew'")

    @app.command()
    def renew(  # pyright: ignore[reportUnusedFunction]
        folder: Folder, host: Hosts = None, ip: Addresses = None, days: Days = 365
    ) -> None:
        """Replace the server's certificate; clients keep what they have. Name all hosts again."""
        with guarded():
            from fedkd import certificates

            certificates.renew(folder, hosts=host or [], addresses=ip or [], days=days)
            typer.echo(f"{folder}/server    copy to the server and start it again")

    return app


def _server_app(guarded: Guarded) -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, help="The server of a deployment.")

    @app.command()
    def up(  # pyright: ignore[reportUnusedFunction]
        certs: Certs,
        overrides: Annotated[
            list[str] | None,
            typer.Argument(metavar="[scenario=NAME] [key=value]...", help="As for simulate."),
        ] = None,
        state: State = Path("server-state"),
        out: Annotated[Path, typer.Option(help="Where run folders are made.")] = Path("runs"),
        host: Annotated[str, typer.Option(help="Listen here; 0.0.0.0 is everywhere.")] = (
            "127.0.0.1"
        ),
        port: Annotated[int, typer.Option(help="The port of clients.")] = PORT,
        wait: Annotated[float, typer.Option(help="Seconds to wait for all clients.")] = 600.0,
        resume: Annotated[
            Path | None, typer.Option(help="Go on with this run folder, from its checkpoint.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="The summary as last line.")] = False,
        plugin: Annotated[list[str] | None, typer.Option("--plugin")] = None,
    ) -> None:
        """Serve one run to clients on other machines, show its progress, end with it."""
        with guarded():
            from fedkd.compose import compose
            from fedkd.deployment.server import Options
            from fedkd.deployment.server import up as serve
            from fedkd.errors import ConfigError
            from fedkd.plugins import load_plugins
            from fedkd.privacy.plan import planned
            from fedkd.reports.terminal import print_summary
            from fedkd.run_files import read_scenario

            load_plugins(plugin or [])
            options = Options(certs=certs, state=state, out=out, host=host, port=port, wait_s=wait)
            if resume is not None and overrides:
                raise ConfigError(f"--resume: {overrides} would change the run; leave them out")
            scenario = read_scenario(resume) if resume else planned(compose(list(overrides or [])))
            summary = serve(scenario, options, _say, resume=resume)
            if as_json:
                typer.echo(json.dumps(summary))
            else:
                print_summary(summary)

    @app.command()
    def status(  # pyright: ignore[reportUnusedFunction]
        state: State = Path("server-state"),
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    ) -> None:
        """Say whether a server runs, who is there and how far it got; exit code 1 when none."""
        with guarded():
            from fedkd.deployment.server import status as read_status

            found = read_status(state)
            if as_json:
                typer.echo(json.dumps(found))
            else:
                for name, value in found.items():
                    typer.echo(f"{name}: {value}")
        if not found["up"]:
            raise typer.Exit(1)

    @app.command()
    def stop(  # pyright: ignore[reportUnusedFunction]
        state: State = Path("server-state"),
    ) -> None:
        """End the server cleanly; exit code 1 when none runs."""
        with guarded():
            from fedkd.deployment.server import ask_to_stop

            done = ask_to_stop(state)
            typer.echo("stopped" if done else f"no server runs with --state {state}")
        if not done:
            raise typer.Exit(1)

    return app


def _client_app(guarded: Guarded) -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, help="A client on a device.")

    @app.callback()
    def group() -> None:  # pyright: ignore[reportUnusedFunction]
        """Keep ``join`` a word of its own."""

    @app.command()
    def join(  # pyright: ignore[reportUnusedFunction]
        server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the server is.")],
        certs: Certs,
        client: Annotated[int, typer.Option(min=0, help="The number of this client.")],
        data: Annotated[
            str, typer.Option(help="Your examples: .npz, .csv, a picture folder, or a .py file.")
        ] = "",
        state: Annotated[
            Path | None,
            typer.Option(help="Model, optimizer, privacy ledger; default client-N-state."),
        ] = None,
        wait: Annotated[float, typer.Option(help="Seconds to try a server that is away.")] = 600.0,
        scenario_hash: Annotated[
            str, typer.Option(help="Work for this scenario only, whatever the server says.")
        ] = "",
    ) -> None:
        """Join a server and serve it until stopped; exit codes 20 to 28 say why not."""
        from fedkd.deployment.admission import Refused

        with guarded():
            from fedkd.deployment.client import Options
            from fedkd.deployment.client import join as serve

            options = Options(
                server=server,
                certs=certs,
                client=client,
                data=data,
                state=state or Path(f"client-{client}-state"),
                wait_s=wait,
                scenario_hash=scenario_hash,
            )
            try:
                serve(options, _say)
            except Refused as refused:
                _say(str(refused))
                raise typer.Exit(refused.reason) from None

    return app


def _say(text: str) -> None:
    sys.stderr.write(f"fedkd: {text}\n")
    sys.stderr.flush()
