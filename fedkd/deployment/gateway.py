"""The only port of a server that others can reach: it lets clients in and nobody else.

Flower serves three interfaces on one port. One of them, the Control API, registers clients and
submits code that clients execute, and asks nobody for a password. So Flower listens on loopback,
and this gateway in front of it passes on the clients' interface alone, for registered keys only.
"""

from __future__ import annotations

import base64
import binascii
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedkd.certificates import ServerFiles, public_pem
from fedkd.deployment.names import HELLO, KEY_HEADER

FLEET = "/v1/fleet/"
MOST_BYTES = 16 * 2**20
"""Largest body of one request. Flower cuts messages into objects of 5 MB."""
_CLOSED = frozenset({"register-node", "unregister-node"})
_HOP = frozenset({"host", "content-length", "connection", "transfer-encoding", "keep-alive"})


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where the gateway listens and what stands behind it.

    Attributes:
        host: address of the public side.
        port: its port.
        inner: port of Flower's server on loopback.
        files: certificate, key, and the clients' registered keys.
        facts: told to a registered client that asks who we are.
    """

    host: str
    port: int
    inner: int
    files: ServerFiles
    facts: Mapping[str, str]


class Gateway:
    """A running gateway, in a thread of this process."""

    def __init__(self, door: Door) -> None:
        config = uvicorn.Config(
            application(door),
            host=door.host,
            port=door.port,
            ssl_certfile=str(door.files.certificate),
            ssl_keyfile=str(door.files.key),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def open(self, *, patience: float = 20.0) -> None:
        """Start listening; OSError when it cannot."""
        self._thread.start()
        limit = time.monotonic() + patience
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > limit:
                raise OSError("the gateway could not listen")
            time.sleep(0.05)

    def close(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        self._thread.join(timeout=10)


def application(door: Door) -> Starlette:
    """Return the gateway as an ASGI application."""
    keys = {public_pem(path) for path in door.files.clients.values()}
    trust = ssl.create_default_context(cafile=str(door.files.ca))
    inner = httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{door.inner}", verify=trust, timeout=60.0, trust_env=False
    )

    async def hello(request: Request) -> Response:
        return JSONResponse(dict(door.facts)) if _key(request) in keys else _stranger()

    async def fleet(request: Request) -> Response:
        if request.path_params["call"] in _CLOSED:
            return Response("clients do not register themselves here", status_code=403)
        if _key(request) not in keys:
            return _stranger()
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return Response(f"more than {MOST_BYTES} bytes", status_code=413)
        try:
            answer = await inner.post(
                FLEET + request.path_params["call"],
                content=bytes(body),
                headers=[(k, v) for k, v in request.headers.items() if k not in _HOP],
            )
        except httpx.TransportError:
            return Response("the server is starting or stopping", status_code=503)
        kept = {k: v for k, v in answer.headers.items() if k not in _HOP | {"content-encoding"}}
        return Response(answer.content, status_code=answer.status_code, headers=kept)

    return Starlette(
        routes=[
            Route(HELLO, hello, methods=["GET"]),
            Route(FLEET + "{call}", fleet, methods=["POST"]),
        ]
    )


def _key(request: Request) -> bytes:
    try:
        return base64.b64decode(request.headers.get(KEY_HEADER, ""), validate=True)
    except binascii.Error:
        return b""


def _stranger() -> Response:
    return Response("this key is not registered", status_code=403)
