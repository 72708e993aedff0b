"""The commands that say what there is: scenarios, methods, components, data sets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import typer

Guarded = Callable[[], AbstractContextManager[None]]
"""Turns what can go wrong into one line and an exit code."""
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="A Python file of yours that registers components."),
]


def add_catalogue(app: typer.Typer, guarded: Guarded) -> None:
    """Add ``scenarios``, ``methods``, ``explain`` and the group ``data``."""

    @app.command()
    def scenarios() -> None:  # pyright: ignore[reportUnusedFunction]
        """List the shipped scenarios."""
        with guarded():
            from fedkd.catalogue import scenario_lines
            from fedkd.reports.terminal import print_names

            print_names(scenario_lines())

    @app.command()
    def methods(plugin: Plugins = None) -> None:  # pyright: ignore[reportUnusedFunction]
        """List the methods."""
        with guarded():
            from fedkd import scenario as _  # noqa: F401  (imports every family)
            from fedkd.catalogue import component_lines
            from fedkd.plugins import load_plugins
            from fedkd.reports.terminal import print_names

            load_plugins(plugin or [])
            print_names(component_lines("method"))

    @app.command()
    def explain(  # pyright: ignore[reportUnusedFunction]
        name: Annotated[str, typer.Argument(help="A scenario or component.")],
        plugin: Plugins = None,
    ) -> None:
        """Say what a scenario or component is: fields, defaults, paper, differences."""
        with guarded():
            from fedkd.catalogue import explain as explained
            from fedkd.plugins import load_plugins

            load_plugins(plugin or [])
            typer.echo(explained(name))

    app.add_typer(_data_app(guarded), name="data")


def _data_app(guarded: Guarded) -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, help="Data sets on this machine.")

    @app.command("check")
    def data_check() -> None:  # pyright: ignore[reportUnusedFunction]
        """Say which data sets are present, and what to download to where."""
        with guarded():
            from fedkd import scenario as _  # noqa: F401
            from fedkd.catalogue import data_lines
            from fedkd.reports.terminal import print_names

            print_names(data_lines())

    @app.callback()
    def group() -> None:  # pyright: ignore[reportUnusedFunction]
        """Keep ``check`` a word of its own, one command or not."""

    return app
