"""Components by name: a file that registers a class is all it takes to add one.

A component is a frozen dataclass and is its own configuration. A family (filters, methods, ...)
is a package; its registry imports every file of the package when a name is first asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cache
from typing import Any, Generic, TypeVar

import pydantic

from fedkd.errors import ConfigError

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or the list of options when nothing is close."""
    known = sorted(options)
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


class Registry(Generic[T]):
    """The named components of one family.

    Args:
        family: singular noun used in messages, such as ``"filter"``.
        base: the family's abstract base; a dataclass field of this type is a slot of the family.
        package: dotted name of the package whose files are the built-in components.
    """

    def __init__(self, family: str, base: type[T], *, package: str) -> None:
        self.family, self.base, self.package = family, base, package
        self._classes: dict[str, type[T]] = {}
        self._walked = False
        _FAMILIES[base] = self

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: make a frozen dataclass available under ``name``."""

        def enrol(cls: C) -> C:
            if self._classes.get(name, cls).__module__ != cls.__module__:
                raise ConfigError(
                    f"{self.family} {name!r} is registered twice; choose another name"
                )
            self._classes[name] = typing.cast("type[T]", cls)
            return cls

        return enrol

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        if not self._walked:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._walked = True
        return sorted(self._classes)

    def get(self, name: str, *, path: str = "") -> type[T]:
        """Return the class called ``name``; ConfigError with the nearest name otherwise."""
        if name not in self.names():
            hint = did_you_mean(str(name), self._classes)
            raise ConfigError(f"{path or self.family}: no {self.family} called {name!r}{hint}")
        return self._classes[name]

    def name_of(self, component: object) -> str:
        """Return the name under which ``component``'s class is registered."""
        return next(name for name, cls in self._classes.items() if cls is type(component))


_FAMILIES: dict[type, Registry[Any]] = {}


def families() -> dict[str, Registry[Any]]:
    """Return every family, by its noun.

    Imports all components: the families of their own slots are known only then.
    """
    known = 0
    while known < len(_FAMILIES):
        known = len(_FAMILIES)
        for registry in tuple(_FAMILIES.values()):
            registry.names()
    return {registry.family: registry for registry in _FAMILIES.values()}


def registry_of(kind: Any) -> Registry[Any] | None:
    """Return the registry of the family whose slot the annotated type ``kind`` is, if any."""
    return _FAMILIES.get(slot_of(kind)[0]) if isinstance(slot_of(kind)[0], type) else None


def build(kind: Any, value: Any, *, path: str) -> Any:
    """Turn plain data into a component, a dataclass or a validated scalar of type ``kind``.

    Args:
        kind: a family's base class, a dataclass, or any type that pydantic can check.
        value: for a family, a name or a mapping with the key ``name``; else plain data.
        path: where ``value`` stands in the scenario, for messages.

    Raises:
        ConfigError: unknown name or field, or a value of the wrong type or range.
    """
    slot, optional = slot_of(kind)
    if value is None and optional:
        return None
    registry = registry_of(kind)
    part = part_of(slot)
    if part is not None:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}: {value!r} is not a list; write [{value!r}]")
        return tuple(build(part, item, path=f"{path}[{n}]") for n, item in enumerate(value))
    if registry:
        settings = {"name": value} if isinstance(value, str) else value
        if not isinstance(settings, Mapping) or "name" not in settings:
            raise ConfigError(f"{path}: {value!r} is neither a name nor a mapping with a name")
        cls = registry.get(settings["name"], path=path)
        return _construct(cls, {k: v for k, v in settings.items() if k != "name"}, path=path)
    if isinstance(slot, type) and dataclasses.is_dataclass(slot):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: {value!r} is not a mapping of {slot.__name__.lower()} keys")
        return _construct(slot, value, path=path)
    return _checked(kind, value, path=path)


def describe(component: object) -> Any:
    """Return the plain data that :func:`build` turns back into ``component``."""
    if isinstance(component, Enum):
        return component.value
    if isinstance(component, Mapping):
        return dict(component)
    if isinstance(component, tuple):
        return [describe(item) for item in component]
    if not dataclasses.is_dataclass(component):
        return component
    fields = {f.name: describe(getattr(component, f.name)) for f in dataclasses.fields(component)}
    for base, registry in _FAMILIES.items():
        if isinstance(component, base):
            return {"name": registry.name_of(component), **fields}
    return fields


def slot_of(kind: Any) -> tuple[Any, bool]:
    """Return the type inside an optional annotation, and whether None is allowed."""
    args = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType) and type(None) in args:
        inner = [arg for arg in args if arg is not type(None)]
        return (inner[0] if len(inner) == 1 else kind), True
    return kind, False


def part_of(kind: Any) -> Any:
    """Return the family or dataclass that ``kind`` is a tuple of any length of, else None."""
    args = typing.get_args(kind)
    if typing.get_origin(kind) is not tuple or len(args) != 2 or args[1] is not Ellipsis:
        return None
    known = registry_of(args[0]) or dataclasses.is_dataclass(slot_of(args[0])[0])
    return args[0] if known else None


@cache
def fields_of(cls: type) -> dict[str, Any]:
    """Return the annotated type of every field of a component or config dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _construct(cls: type, settings: Mapping[str, Any], *, path: str) -> Any:
    kinds = fields_of(cls)
    for key in settings:
        if key not in kinds:
            where = f"{path}.{key}" if path else key
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(key, kinds)}")
    prefix = f"{path}." if path else ""
    values = {k: build(kinds[k], v, path=prefix + k) for k, v in settings.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from None


@cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _checked(kind: Any, value: Any, *, path: str) -> Any:
    if isinstance(value, bool) and kind is not bool and bool not in typing.get_args(kind):
        raise ConfigError(f"{path}: {value!r} is a truth value; give a number or a word")
    try:
        return _adapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise ConfigError(
            f"{path}: {value!r} is refused: {reason[0].lower()}{reason[1:]}"
        ) from None
