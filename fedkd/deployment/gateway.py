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
from fedkd.deployment.limits import (
    MOST_BYTES,
    MOST_BYTES_AN_ANSWER,
    MOST_BYTES_OTHERWISE,
    Allowance,
    Doorkeeper,
    TooMuch,
    body_of,
)
from fedkd.deployment.names import HELLO, KEY_HEADER
from fedkd.transport.fleet import has_question, is_own_answer

FLEET = "/v1/fleet/"
LOOK_S = 5
"""Seconds between two looks for connections that have come to a standstill."""
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
        most: bytes of one answer's objects.
    """

    host: str
    port: int
    inner: int
    files: ServerFiles
    facts: Mapping[str, str]
    most: int = MOST_BYTES_AN_ANSWER


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
            http="h11",  # ends a head above 64 KiB; httptools reads on for ever
            ws="none",
            timeout_graceful_shutdown=2,
            timeout_notify=LOOK_S,
            callback_notify=Doorkeeper(lambda: self._server.server_state.connections).look,
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


def application(door: Door, *, flower: httpx.AsyncBaseTransport | None = None) -> Starlette:
    """Return the gateway as an ASGI application; ``flower`` is another way to Flower's server."""
    keys = {public_pem(path) for path in door.files.clients.values()}
    trust = ssl.create_default_context(cafile=str(door.files.ca))
    allowance = Allowance(most=door.most)
    inner = httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{door.inner}",
        verify=trust,
        timeout=60.0,
        trust_env=False,
        transport=flower,
    )

    async def hello(request: Request) -> Response:
        return JSONResponse(dict(door.facts)) if _key(request) in keys else _stranger()

    async def fleet(request: Request) -> Response:
        call, key = request.path_params["call"], _key(request)
        if call in _CLOSED:
            return Response("clients do not register themselves here", status_code=403)
        if key not in keys:
            return _stranger()
        try:
            with allowance.request(key):
                return await passed_on(request, call, key)
        except TooMuch as error:
            return Response(str(error), status_code=error.status)

    async def passed_on(request: Request, call: str, key: bytes) -> Response:
        most = MOST_BYTES if call == "push-object" else MOST_BYTES_OTHERWISE
        body = await body_of(request, most=most)
        if call == "push-object":
            allowance.add(key, len(body))
        if call == "push-messages" and not is_own_answer(body):
            return Response("not one answer, or another client's", status_code=403)
        try:
            answer = await inner.post(
                FLEET + call,
                content=body,
                headers=[(k, v) for k, v in request.headers.items() if k not in _HOP],
            )
        except httpx.TransportError:
            return Response("the server is starting or stopping", status_code=503)
        if call == "pull-messages" and answer.is_success and has_question(answer.content):
            allowance.begin(key)
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
