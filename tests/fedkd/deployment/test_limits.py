"""Nobody takes more of a server than a share, and a registered client speaks as itself only."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from starlette.requests import Request

from fedkd import certificates
from fedkd.deployment import gateway, limits
from fedkd.deployment.gateway import Door, Gateway, application
from fedkd.deployment.limits import Allowance, Doorkeeper, TooMuch, body_of
from fedkd.deployment.names import HELLO, KEY_HEADER
from fedkd.deployment.processes import free_port

pytestmark = pytest.mark.enable_socket
ME, OTHER = 11, 22


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits") / "certs"
    certificates.init(folder, hosts=[], addresses=[], n_clients=1, days=2)
    return folder


@pytest.fixture
def headers(certs: Path) -> dict[str, str]:
    pem = certificates.public_pem(certs / "server/clients/client-0.pub")
    return {KEY_HEADER: base64.b64encode(pem).decode()}


def _door(certs: Path, **more: int) -> Door:
    files = certificates.server_files(certs)
    ports = {"port": free_port(), "inner": free_port()}
    return Door(host="127.0.0.1", files=files, facts={}, **ports, **more)


@contextmanager
def opened(certs: Path) -> Iterator[int]:
    door = _door(certs)
    running = Gateway(door)
    running.open()
    try:
        yield door.port
    finally:
        running.close()


def answer(*speakers: int, trees: int = 1) -> bytes:
    """Return a request of node ME with answers of some nodes."""
    messages = [Message(metadata=Metadata(src_node_id=node)) for node in speakers]
    return PushMessagesRequest(
        node=Node(node_id=ME), messages_list=messages, message_object_trees=[ObjectTree()] * trees
    ).SerializeToString()


Post = Callable[[str, bytes], int]


@pytest.fixture
def post(certs: Path, headers: dict[str, str]) -> Post:
    """Post to the gateway in front of a Flower that takes all, and asks whenever it is pulled."""
    asked = PullMessagesResponse(messages_list=[Message()]).SerializeToString()

    def flower(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200,
            content=asked
            if request.content == b"new" and request.url.path.endswith("pull-messages")
            else b"",
        )

    door = _door(certs, most=10)
    app = application(door, flower=httpx.MockTransport(flower))

    def status(call: str, body: bytes) -> int:
        async def go() -> int:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="https://x") as client:
                done = await client.post(f"/v1/fleet/{call}", content=body, headers=headers)
            return done.status_code

        return asyncio.run(go())

    return status


def test_a_client_answers_for_itself_only(post: Post):
    assert post("push-messages", answer(ME)) == 200
    assert post("push-messages", answer(OTHER)) == 403, "signed by one, in the name of another"
    assert post("push-messages", answer(ME, OTHER, trees=2)) == 403
    assert post("push-messages", answer()) == 403
    assert post("push-messages", answer(ME, trees=0)) == 403
    assert post("push-messages", b"\xff\xff") == 403


def test_an_answer_fills_no_disk_and_only_a_question_allows_another(post: Post):
    assert post("push-object", bytes(6)) == 200
    assert post("push-object", bytes(5)) == 413
    assert post("push-messages", answer(ME)) == 200
    assert post("push-object", bytes(5)) == 413, "who answers again has no more to send"
    assert post("pull-messages", b"nothing new") == 200
    assert post("push-object", bytes(5)) == 413
    assert post("pull-messages", b"new") == 200
    assert post("push-object", bytes(10)) == 200


def test_a_key_has_only_so_many_requests_under_way():
    allowance = Allowance(most=10)
    with ExitStack() as open_requests:
        for _ in range(limits.MOST_AT_ONCE):
            open_requests.enter_context(allowance.request(b"a"))
        with pytest.raises(TooMuch) as refused, allowance.request(b"a"):
            pass
        assert refused.value.status == 429
        with allowance.request(b"b"):
            pass
    with allowance.request(b"a"):
        pass


def test_a_body_that_does_not_end_is_not_waited_for():
    async def dripping() -> dict:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    request = Request({"type": "http", "method": "POST", "headers": []}, dripping)
    with pytest.raises(TooMuch) as refused:
        asyncio.run(body_of(request, most=10**6, seconds=0.2))
    assert refused.value.status == 408


def test_a_standstill_is_ended_and_nobody_else():
    class Line:
        def __init__(self, cycle: object) -> None:
            self.cycle, self.transport, self.ended = cycle, self, False

        def abort(self) -> None:
            self.ended = True

    silent = Line(None)
    polling = Line(SimpleNamespace(response_complete=True))
    working = Line(SimpleNamespace(response_complete=False))
    seconds = [0.0]
    keeper = Doorkeeper(lambda: {silent, polling, working}, clock=lambda: seconds[0])
    ends: dict[str, float] = {}
    for now in range(0, 300, 5):
        seconds[0] = float(now)
        polling.cycle = SimpleNamespace(response_complete=now % 2 == 0)
        asyncio.run(keeper.look())
        for name, one in (("silent", silent), ("polling", polling), ("working", working)):
            if one.ended:
                ends.setdefault(name, now)
    assert ends == {"silent": limits.SILENT_S + 5, "working": limits.WHOLE_S + 5}


@pytest.mark.parametrize("head", [b"", b"GET /fedkd/hello HTTP/1.1\r\nHost: x\r\n"])
def test_a_stranger_who_says_too_little_is_cut_off(certs: Path, headers, monkeypatch, head: bytes):
    monkeypatch.setattr(gateway, "LOOK_S", 0)
    monkeypatch.setattr(limits, "SILENT_S", 1.0)
    begun = time.monotonic()
    with opened(certs) as port, _dialled(certs, port) as line:
        line.sendall(head)
        assert line.recv(1) == b""
        assert time.monotonic() - begun > 1, "it was given its second"
        url = f"https://127.0.0.1:{port}{HELLO}"
        trust = ssl.create_default_context(cafile=str(certs / "ca.crt"))
        assert httpx.get(url, headers=headers, verify=trust, trust_env=False).status_code == 200


def test_a_head_without_end_is_not_read_to_its_end(certs: Path):
    with opened(certs) as port, _dialled(certs, port) as line:
        line.settimeout(30)
        line.sendall(b"GET /fedkd/hello HTTP/1.1\r\nHost: x\r\n")
        for _ in range(100):
            line.sendall(b"a: " + b"b" * 1000 + b"\r\n")
        assert line.recv(12) == b"HTTP/1.1 400"


@contextmanager
def _dialled(certs: Path, port: int) -> Iterator[ssl.SSLSocket]:
    trust = ssl.create_default_context(cafile=str(certs / "ca.crt"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=True) as line,
    ):
        yield line
