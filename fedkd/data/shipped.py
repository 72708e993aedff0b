"""Files that come inside the package, checked before they are read."""

from __future__ import annotations

import hashlib
from importlib import resources

from fedkd.errors import ConfigError


def verified(file: str, *, sha256: str, script: str) -> bytes:
    """Return the content of ``fedkd/data/<file>``; ConfigError when its checksum is another.

    Args:
        file: name.
        sha256: 64 hex digits.
        script: what makes the file again, for the message.
    """
    content = resources.files("fedkd.data").joinpath(file).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ConfigError(
            f"fedkd/data/{file} is damaged: sha256 {found}, expected {sha256}; "
            f"install fedkd again, or run {script}"
        )
    return content
