"""The words that a client and a server's gateway both know."""

from __future__ import annotations

HELLO = "/fedkd/hello"
"""Where a client asks, before it joins, which version and scenario are served."""
KEY_HEADER = "flwr-public-key"
"""Flower's header for the public key a request is signed with: PEM in base64."""
