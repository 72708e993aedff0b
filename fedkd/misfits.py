"""Which parts go with text: models of tokens, and no part that measures distances of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedkd.methods.base import CoDistillation
from fedkd.models.base import models
from fedkd.registry import describe

if TYPE_CHECKING:
    from fedkd.scenario import Scenario


def misfits(scenario: Scenario) -> Iterator[str]:
    """Yield what does not go with the scenario's kind of data, each with its remedy."""
    kind = describe(scenario.data)["name"]
    yield from _models(scenario, kind)
    if not scenario.data.tokens:
        return
    method = scenario.method
    if isinstance(method, CoDistillation):
        name = describe(method.filter)["name"]
        if method.filter.space is not None:
            yield (
                f"method.filter: {name!r} measures distances between inputs, and tokens of "
                f"data={kind} have none; use method=fedmd, or method.filter=own_only"
            )
        elif method.filter.oracle:
            yield (
                f"method.filter: {name!r} goes by the class of an input, and a text of "
                f"data={kind} has none; use method=fedmd, or method.filter=own_only"
            )
    if scenario.protector.reads_private:
        yield (
            "protector: its scorer measures distances to private inputs, and tokens of "
            f"data={kind} have none; use a scorer that reads scores, such as detector"
        )


def _models(scenario: Scenario, kind: str) -> Iterator[str]:
    wanted = scenario.data.tokens
    named = {name: models.get(name) for name in scenario.client_models()}
    if scenario.server_model is not None:
        named[describe(scenario.server_model)["name"]] = type(scenario.server_model)
    for name, cls in named.items():
        if cls.tokens != wanted:
            reads = "sequences of tokens" if cls.tokens else "images or tables"
            remedy = "gru_char" if wanted else "cnn_small or mlp"
            key = "models" if name in scenario.client_models() else "server_model"
            yield f"{key}: {name!r} reads {reads}, data={kind} is not that; use {remedy}"
