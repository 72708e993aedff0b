"""The user's own Python files: importing one registers the components in it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from fedkd.errors import ConfigError

_PREFIX = "fedkd_plugin_"


def load_plugins(paths: Sequence[str]) -> None:
    """Import the user's own Python files, so that what they register can be named.

    Raises:
        ConfigError: a file is missing; whatever it raises itself passes through.
    """
    for text in paths:
        path = Path(text)
        if not path.is_file():
            raise ConfigError(f"--plugin: no file {text!r}")
        module_name = f"{_PREFIX}{path.stem}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"--plugin: {text!r} is no Python file; give one that ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)


def loaded_plugins() -> list[str]:
    """Return the files that :func:`load_plugins` imported, for processes that need them too."""
    files = [module.__file__ for name, module in sys.modules.items() if name.startswith(_PREFIX)]
    return [str(Path(file).resolve()) for file in files if file]
