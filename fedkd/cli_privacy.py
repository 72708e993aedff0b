"""The commands under ``fedkd privacy``: plan before a run, explain after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

Guarded = Callable[[], AbstractContextManager[None]]
"""Turns what can go wrong into one line and an exit code."""


def privacy_app(guarded: Guarded) -> typer.Typer:
    """Return the ``privacy`` command group."""
    app = typer.Typer(no_args_is_help=True, help="What a run may claim: plan it, explain it.")

    @app.command()
    def plan(  # pyright: ignore[reportUnusedFunction]
        overrides: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[scenario=NAME] [target_epsilon=8] [key=value]...",
                help="As for simulate; target_epsilon and delta stand for privacy.target_epsilon "
                "and privacy.delta.",
            ),
        ] = None,
        pilot: Annotated[int, typer.Option(help="Rounds of a trial run; 0 for none.")] = 3,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
        plugin: Annotated[list[str] | None, typer.Option("--plugin")] = None,
    ) -> None:
        """Work out the noise, the budget by round, the accuracy to expect and the claim."""
        with guarded():
            from fedkd.compose import compose
            from fedkd.plugins import load_plugins
            from fedkd.reports import privacy_plan

            load_plugins(plugin or [])
            scenario = compose([_full_name(word) for word in overrides or []])
            found = privacy_plan.plan(scenario)
            tried = privacy_plan.pilot(scenario, rounds=pilot) if pilot else None
            if as_json:
                typer.echo(json.dumps({**found, "pilot": tried}))
            else:
                privacy_plan.print_plan(found, tried)

    @app.command()
    def explain(  # pyright: ignore[reportUnusedFunction]
        run: Annotated[Path, typer.Argument(help="A run folder.")],
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    ) -> None:
        """Print what a run released, client by client, and the sentence it permits."""
        with guarded():
            from fedkd.reports.privacy_explanation import explanation, print_explanation

            found = explanation(run)
            if as_json:
                typer.echo(json.dumps(found))
            else:
                print_explanation(found)

    return app


def _full_name(word: str) -> str:
    return f"privacy.{word}" if word.startswith(("target_epsilon=", "delta=")) else word
