"""What a client says of itself on Flower's interface for clients, read before Flower reads it."""

from __future__ import annotations

from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from google.protobuf.message import DecodeError


def is_own_answer(body: bytes) -> bool:
    """Return whether a ``push-messages`` body is one answer, of the node that the request names.

    Flower checks that a request is signed with the key of the node that it names; the answer in it
    names a node as well, and Flower 1.42 does not compare the two.
    """
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        return False
    answers, trees = request.messages_list, request.message_object_trees
    if len(answers) != 1 or len(trees) != 1:
        return False
    return answers[0].metadata.src_node_id == request.node.node_id


def has_question(body: bytes) -> bool:
    """Return whether the answer to ``pull-messages`` holds a message of the server."""
    try:
        return len(PullMessagesResponse.FromString(body).messages_list) > 0
    except DecodeError:
        return False
