"""A registered client that speaks the protocol by hand costs a real run its own answers only."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Message, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

from fedkd import certificates
from fedkd.compose import compose
from fedkd.run_files import read_events
from fedkd.scenario import Scenario
from fedkd.transport.hello import greeting
from fedkd.transport.messages import Action, Reply
from fedkd.transport.records import reply_records
from tests.e2e.deployed import Server, ended, joined, serving

HOSTILE, DEADLINE_S = 1, 60
SCENARIO = [
    *("scenario=external_proxy", "data=digits", "clients=2", "rounds=2", "proxy.size=100"),
    *("partition=iid", "models=mlp", f"deadline_s={DEADLINE_S}", "min_completion=0.5"),
]
pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]


@dataclass(eq=False, kw_only=True)
class Hostile:
    """Client 1: polite until it is let in.

    Attributes:
        refused: how often it was refused what it tried in another's name.
        error: what ended it.
    """

    server: Server
    scenario: Scenario
    refused: int = 0
    error: Exception | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            self.error = error

    def _serve(self) -> None:
        files = certificates.client_files(self.server.certs, HOSTILE)
        key = serialization.load_ssh_private_key(files.key.read_bytes(), password=None)
        assert isinstance(key, EllipticCurvePrivateKey)
        with http_request_response(
            self.server.address, False, files.ca.read_bytes(), (key, key.public_key())
        ) as (node, receive, send, _, _, _, push, _):
            while not self.over.is_set():
                got = receive()
                if got is None:
                    time.sleep(0.5)
                    continue
                asked, _ = got
                if asked.metadata.message_type == Action.HELLO.value:
                    hello = Reply(client=HOSTILE, hello=greeting(self.scenario))
                    self._answer(asked, node, send, push, reply_records(hello), skip=0)
                elif asked.metadata.group_id == "1":
                    self._as_another(asked, node, send)
                    self._rubbish(asked, node, send, push)
                else:
                    self._answer(asked, node, send, push, RecordDict(), skip=1)

    def _answer(self, asked, node: int, send, push, records: RecordDict, *, skip: int) -> None:
        """Announce an answer and send its objects, but for the last ones."""
        answer = make_message(metadata=_about(asked, node), content=records)
        objects = get_all_nested_objects(answer)
        answer.metadata.__dict__["_message_id"] = answer.object_id
        wanted, session = send(answer, get_object_tree(answer), 0.0)
        for identity in sorted(wanted)[: len(wanted) - skip]:
            push(asked.metadata.run_id, session, identity, objects[identity].deflate())

    def _as_another(self, asked, node: int, send) -> None:
        answer = make_message(metadata=_about(asked, node + 1), content=RecordDict())
        answer.metadata.__dict__["_message_id"] = answer.object_id
        try:
            send(answer, get_object_tree(answer), 0.0)
        except RunNotRunningException:  # what Flower's client makes of a 403
            self.refused += 1

    def _rubbish(self, asked, node: int, send, push) -> None:
        """Send an object of the right hash and head whose body Flower cannot read."""
        content = b"MetricRecord  7\x00rubbish"
        identity = hashlib.sha256(content).hexdigest()
        answer = make_message(metadata=_about(asked, node), content=RecordDict())
        answer.metadata.__dict__["_message_id"] = identity
        _, session = send(answer, ObjectTree(object_id=identity), 0.0)
        push(asked.metadata.run_id, session, identity, content)


def _about(asked: Message, node: int) -> Metadata:
    told = asked.metadata
    return Metadata(
        run_id=told.run_id,
        message_id="",
        src_node_id=node,
        dst_node_id=told.src_node_id,
        reply_to_message_id=told.message_id,
        group_id=told.group_id,
        created_at=time.time(),
        ttl=told.created_at + told.ttl - time.time() - 1,
        message_type=told.message_type,
    )


def test_it_costs_the_run_its_own_answers_and_nothing_else(tmp_path: Path):
    with serving(tmp_path, *SCENARIO) as server, ended(joined(server, 0)):
        hostile = Hostile(server=server, scenario=compose(SCENARIO))
        thread = threading.Thread(target=hostile.run, daemon=True)
        thread.start()
        server.process.wait(timeout=600)
        hostile.over.set()
    assert server.process.returncode == 0, server.log()
    assert hostile.refused == 1, hostile.error
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["rounds_done"] == 2
    events = read_events(run)
    told = [[(f["client"], f["reason"]) for f in e["failures"]] for e in events[1:]]
    assert [[client for client, _ in round] for round in told] == [[HOSTILE], [HOSTILE]]
    assert told[0][0][1].startswith("unreadable reply (")
    assert told[1][0][1] == "no answer"
