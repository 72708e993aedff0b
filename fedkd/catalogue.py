"""What there is to choose from, and what each thing says about itself."""

from __future__ import annotations

import dataclasses
import importlib
import inspect

from omegaconf import OmegaConf

from fedkd.compose import read_file, shipped
from fedkd.errors import ConfigError
from fedkd.registry import Registry, describe, did_you_mean, families


def scenario_lines() -> list[tuple[str, str]]:
    """Return (name, description) of every shipped scenario."""
    return [(name, str(read_file(name).get("description", ""))) for name in shipped()]


def component_lines(family: str) -> list[tuple[str, str]]:
    """Return (name, first docstring line) of every component of a family."""
    registry = families()[family]
    return [(name, _doc(registry.get(name)).splitlines()[0]) for name in registry.names()]


def explain(name: str) -> str:
    """Return what a scenario or component is: text, source, fields and defaults.

    Raises:
        ConfigError: nothing has that name.
    """
    importlib.import_module("fedkd.audit.attacks.base")  # no scenario has a slot of this family
    found = [(r, r.get(name)) for r in families().values() if name in r.names()]
    parts = [_explained(registry, name, cls) for registry, cls in found]
    if name in shipped():
        parts.insert(
            0, f"scenario {name}\n\n{OmegaConf.to_yaml(OmegaConf.create(read_file(name)))}"
        )
    if not parts:
        known = {*shipped(), *(n for r in families().values() for n in r.names())}
        raise ConfigError(f"nothing is called {name!r}{did_you_mean(name, known)}")
    return "\n\n".join(parts)


def _explained(registry: Registry[object], name: str, cls: type) -> str:
    module = importlib.import_module(cls.__module__)
    parts = [f"{registry.family} {name}", _doc(cls)]
    if module.__doc__:
        parts.append("Source: " + inspect.cleandoc(module.__doc__))
    settings = describe(cls())
    lines = [f"  {f.name} = {settings[f.name]}" for f in dataclasses.fields(cls)]
    parts.append("Fields and defaults:\n" + ("\n".join(lines) or "  none"))
    return "\n\n".join(parts)


def _doc(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "")


def data_lines() -> list[tuple[str, str]]:
    """Return (name, presence) of every data set, with what to download where."""
    registry = families()["data set"]
    lines: list[tuple[str, str]] = []
    for name in registry.names():
        presence = registry.get(name)().check()
        mark = "present" if presence.present else "missing"
        lines.append((name, f"{mark}: {presence.detail}"))
    return lines
