"""Flower's client process, which runs the code that is installed here and none that a server sends.

    python -m fedkd.deployment.supernode [options of flower-supernode]

Flower's bundle may hold Python files, which its clients run. Ours is configuration only; a bundle
that is anything else ends the process with exit code CODE_SENT, before any of it is unpacked.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import tomllib
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from fedkd.deployment.names import CODE_SENT, COMPONENTS

logger = logging.getLogger("flwr")
_FILES = [".info/CONTENT", "pyproject.toml"]


def is_configuration_only(bundle: bytes) -> bool:
    """Return whether a bundle is one file of settings that names the installed apps."""
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            if sorted(archive.namelist()) != _FILES:
                return False
            settings = tomllib.loads(archive.read("pyproject.toml").decode("utf-8"))
        return settings["tool"]["flwr"]["app"]["components"] == COMPONENTS
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, NotImplementedError, RuntimeError):
        return False


def guarded(connection: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's connection to a server with a look at every bundle that comes over it."""

    @contextmanager
    def connect(*words: Any, **named: Any) -> Generator[tuple[Any, ...]]:
        with connection(*words, **named) as calls:
            node, receive, send, get_run, get_bundle, pull, push, confirm = calls

            def looked_at(*which: Any) -> Any:
                bundle = get_bundle(*which)
                if not is_configuration_only(bundle.content):
                    logger.error("the server sent code; this client runs what is installed here")
                    os._exit(CODE_SENT)  # Flower would go on after an exception
                return bundle

            yield node, receive, send, get_run, looked_at, pull, push, confirm

    return connect


def main() -> None:
    """Start Flower's client process."""
    from flwr.supernode.cli import flower_supernode

    loop = importlib.import_module("flwr.supernode.start_client_internal")
    vars(loop)["http_request_response"] = guarded(loop.http_request_response)
    sys.exit(flower_supernode())


if __name__ == "__main__":
    main()
