"""The words that a client and a server both know."""

from __future__ import annotations

HELLO = "/fedkd/hello"
"""Where a client asks, before it joins, which version and scenario are served."""
KEY_HEADER = "flwr-public-key"
"""Flower's header for the public key a request is signed with: PEM in base64."""
COMPONENTS = {"serverapp": "fedkd_server.app:app", "clientapp": "fedkd_clients.app:app"}
"""The apps that a run's bundle names; both are installed, never sent."""
CODE_SENT = 29
"""Exit code of a client's process that was sent code."""
