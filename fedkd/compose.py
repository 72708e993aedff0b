"""From a scenario file and ``key=value`` overrides to a checked scenario; all of Hydra is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fedkd.errors import ConfigError
from fedkd.privacy.plan import planned
from fedkd.registry import Registry, build, describe, did_you_mean, fields_of, registry_of, slot_of
from fedkd.scenario import Scenario

DEFAULT_SCENARIO = "noniid_strong"
Tree = dict[str, Any]


def compose(overrides: Sequence[str] = (), *, smoke: bool = False) -> Scenario:
    """Resolve overrides (Hydra grammar) on top of a scenario file, privacy noise worked out.

    Args:
        overrides: may hold ``scenario=NAME`` once; the other keys are dotted paths into
            :class:`Scenario`. Naming a component (``method=fedmd``) replaces it and all its
            fields by its defaults; maps such as ``models={mlp: 10}`` replace, never merge.
        smoke: apply the scenario's ``smoke:`` block, its smallest honest run.

    A scenario file may hold ``presets: {protector: {swing: {...}}}``: the fields that naming this
    component gets in this scenario, in place of its defaults.

    Raises:
        ConfigError: names the path, quotes the value, suggests the nearest name.
    """
    parsed = {o.key_or_group: _single(o) for o in _parse(overrides)}
    chosen = parsed.pop("scenario", None)
    tree = read_file(str(chosen.value()) if chosen else DEFAULT_SCENARIO)
    small, presets = tree.pop("smoke", {}), tree.pop("presets", {})
    tree = _merged(describe(Scenario()), tree)
    tree = _merged(tree, small) if smoke else tree
    _check_presets(tree, presets)
    plain: list[str] = []
    for key, override in sorted(parsed.items(), key=lambda item: item[0].count(".")):
        kind, value = _kind_at(tree, key), _preset(presets, key, override.value())
        if key == "models" or registry_of(kind) or isinstance(value, Mapping):
            parent, last = _parent(tree, key)
            parent[last] = _laid(kind, value, current=parent[last], path=key)
        else:
            plain.append(override.input_line or "")
    return planned(build(Scenario, _with_hydra(tree, plain), path=""))


def shipped() -> list[str]:
    """Return the names of the scenarios that come with the package."""
    entries = files("fedkd_scenarios").iterdir()
    return sorted(e.name.removesuffix(".yaml") for e in entries if e.name.endswith(".yaml"))


def read_file(name: str) -> Tree:
    """Return the YAML of a shipped scenario, or of a file when ``name`` ends in ``.yaml``."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ConfigError(f"scenario: no file {name!r}")
        text = Path(name).read_text(encoding="utf-8")
    elif name in shipped():
        text = (files("fedkd_scenarios") / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise ConfigError(f"scenario: no scenario called {name!r}{did_you_mean(name, shipped())}")
    try:
        tree = OmegaConf.to_container(OmegaConf.create(text))
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(f"scenario: {name!r} is not readable: {_first_line(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"scenario: {name!r} is not a mapping")
    return {str(key): value for key, value in tree.items()} | {"name": Path(name).stem}


def _parse(overrides: Sequence[str]) -> list[Any]:
    parsed: list[Any] = []
    for text in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([text])
        except HydraException:
            raise ConfigError(f"{text!r} is not of the form key=value") from None
    return parsed


def _single(override: Any) -> Any:
    """Refuse overrides that give no one value."""
    if override.is_delete():
        raise ConfigError(f"{override.input_line}: a key cannot be removed; give it a value")
    if override.is_sweep_override():
        raise ConfigError(
            f"{override.input_line}: one run takes one value; `fedkd compare` takes lists"
        )
    return override


def _preset(presets: Mapping[str, Any], key: str, value: Any) -> Any:
    """Return the settings that a scenario has for the component named, else ``value``."""
    known = presets.get(key, {})
    return {"name": value, **known[value]} if isinstance(value, str) and value in known else value


def _check_presets(tree: Tree, presets: Mapping[str, Any]) -> None:
    for key, known in presets.items():
        registry = registry_of(_kind_at(tree, key))
        if registry is None or not isinstance(known, Mapping):
            raise ConfigError(f"presets.{key}: it names no components with their fields")
        for name in known:
            registry.get(str(name), path=f"presets.{key}")


def _with_hydra(tree: Tree, overrides: list[str]) -> Tree:
    ConfigStore.instance().store(name="fedkd_scenario", node=tree)
    try:
        with initialize(version_base=None, config_path=None):
            composed = hydra_compose("fedkd_scenario", overrides=overrides)
        resolved = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(overrides)}: {_first_line(error)}") from None
    return (
        {str(key): value for key, value in resolved.items()} if isinstance(resolved, dict) else {}
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _merged(base: Tree, top: Mapping[str, Any]) -> Tree:
    """Lay the keys of ``top`` over ``base``, one level deep; slots start from their defaults."""
    result = dict(base)
    for key, value in top.items():
        result[key] = _laid(_kind_at(result, key), value, current=base[key], path=key)
    return result


def _laid(kind: Any, value: Any, *, current: Any, path: str) -> Any:
    """Return what ``value`` makes of ``current``: components and groups keep what it leaves out."""
    if registry_of(kind):
        return _component(kind, value, current=current, path=path)
    slot = slot_of(kind)[0]
    if not isinstance(value, Mapping) or not (isinstance(slot, type) and is_dataclass(slot)):
        return value
    known = fields_of(slot)
    settings: Tree = describe(slot()) if current is None else dict(current)
    for key, inner in value.items():
        if key not in known:
            raise ConfigError(f"{path}.{key}: unknown key {key!r}{did_you_mean(str(key), known)}")
        settings[key] = _laid(known[key], inner, current=settings[key], path=f"{path}.{key}")
    return settings


def _component(kind: Any, value: Any, *, current: Any, path: str) -> Any:
    """Return the full settings of the component that ``value`` names or changes."""
    registry = registry_of(kind)
    if registry is None or value is None:
        return value
    fields = (
        {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {"name": value}
    )
    if "name" not in fields and current is not None:
        settings: Tree = dict(current)
        cls = registry.get(settings["name"], path=path)
    else:
        cls = registry.get(str(fields.pop("name", value)), path=path)
        settings = describe(cls())
    kinds = fields_of(cls)
    for key, inner in fields.items():
        if key not in kinds:
            raise ConfigError(f"{path}.{key}: unknown key {key!r}{did_you_mean(key, kinds)}")
        where = f"{path}.{key}"
        settings[key] = _component(kinds[key], inner, current=settings[key], path=where)
    return settings


def _kind_at(tree: Tree, key: str) -> Any:
    """Return the annotated type of a dotted key; ConfigError with the nearest sibling if none."""
    kind: Any = Scenario
    node: Any = tree
    for part in key.split("."):
        registry: Registry[Any] | None = registry_of(kind)
        cls = registry.get(node["name"]) if registry and node else slot_of(kind)[0]
        known = fields_of(cls) if hasattr(cls, "__dataclass_fields__") else {}
        if part not in known:
            raise ConfigError(f"{key}: unknown key {part!r}{did_you_mean(part, known)}")
        if node is None:
            raise ConfigError(f"{key}: what {part!r} belongs to is null; give that as a map")
        kind, node = known[part], node[part]
    return kind


def _parent(tree: Tree, key: str) -> tuple[Tree, str]:
    *path, last = key.split(".")
    node = tree
    for part in path:
        node = node[part]
    return node, last
