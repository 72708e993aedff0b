"""Members to judge beside non-members that differ from them in nothing but membership."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fedkd.audit.attacks.base import Truth
from fedkd.audit.attacks.matching import alike, matched
from fedkd.audit.findings import Result, membership
from fedkd.audit.scoring import Floats, pooled, some
from fedkd.tasks import Task
from fedkd.training.steps import Examples

AT_RISK = "membership of records"
MATCHED = "Members and non-members have the same share of every class."
UNMATCHED = "Sequences have no classes: members are compared with all test text."
UNLIKE = "members and the held-out text differ in more than membership, so style passes for memory"
MOST = 2000
"""Members, and non-members, of one attack."""


def compared(task: Task) -> str:
    """Return in a sentence what members are compared with, for a note."""
    return UNMATCHED if unlike(task) else MATCHED


def unlike(task: Task) -> str:
    """Return why members would be told from non-members without any memory, or an empty text.

    Examples are matched by class. Sequences have none, and the test text stands elsewhere in the
    same books than the clients' text, with its own names and scenes.
    """
    return UNLIKE if task.rows_per_input > 1 else ""


def suspects_of_all(truth: Truth, *, rng: np.random.Generator) -> tuple[Examples, Examples]:
    """Return members of all clients together, and non-members of the same classes."""
    return matched(_once(pooled(truth.members)), truth.nonmembers, rng=rng, most=MOST)


def _once(examples: Examples) -> Examples:
    """Return every example once: one that several clients hold is one member, not several."""
    labels = examples.labels.numpy()
    first: dict[bytes, int] = {}
    for place, row in enumerate(examples.inputs.numpy()):
        first.setdefault(row.tobytes() + labels[place].tobytes(), place)
    return some(examples, np.array([*first.values()], dtype=np.int64))


def suspects_by_client(
    truth: Truth, clients: Iterable[int], *, rng: np.random.Generator
) -> dict[int, tuple[Examples, Examples]]:
    """Return each client's members, and non-members of the same classes.

    Every non-member goes to one client only, so that scores pooled over clients are independent,
    and every client has as many members a non-member, so that clients are no membership.
    """
    members = {client: truth.members[client] for client in sorted(clients)}
    dealt = _dealt(members, truth.nonmembers, rng=rng)
    most = max(2, MOST // max(1, len(members)))
    sides = {
        client: matched(examples, some(truth.nonmembers, dealt[client]), rng=rng, most=most)
        for client, examples in members.items()
    }
    return alike(sides, rng=rng)


def _dealt(
    members: dict[int, Examples], nonmembers: Examples, *, rng: np.random.Generator
) -> dict[int, np.ndarray]:
    """Deal the non-members of each class out among the clients that hold the class."""
    of_others = _classes(nonmembers)
    held = {client: np.unique(_classes(examples)) for client, examples in members.items()}
    hands: dict[int, list[np.ndarray]] = {client: [] for client in members}
    for label in np.unique(of_others):
        cards = rng.permutation(np.flatnonzero(of_others == label))
        holders = rng.permutation([client for client in held if label in held[client]])
        for place, client in enumerate(holders.tolist()):
            hands[int(client)].append(cards[place :: len(holders)])
    nothing = np.zeros(0, dtype=np.int64)
    return {client: np.concatenate([nothing, *hand]) for client, hand in hands.items()}


def _classes(examples: Examples) -> np.ndarray:
    labels = examples.labels.numpy()
    return labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)


def judged(
    members: Floats,
    nonmembers: Floats,
    *,
    delta: float,
    note: str,
    rng: np.random.Generator,
    certify: bool = True,
) -> Result:
    """Return how well scores tell records' membership; nothing but a note for too few of them.

    Args:
        members: their scores.
        nonmembers: theirs.
        delta: that the run's guarantees are stated at: a bound at another cannot contradict them.
        note: of the attack.
        rng: draws the halves of the bound.
        certify: False where the two differ in more than membership: no epsilon follows then.
    """
    if min(len(members), len(nonmembers)) < 2:
        few = f"{len(members)} members and {len(nonmembers)} non-members of the same classes"
        return Result(at_risk=AT_RISK, note=f"{few} are too few. {note}".strip())
    found = membership(members, nonmembers, rng=rng, delta=delta)
    if not certify:
        found = replace(found, bound=None)
    return Result(at_risk=AT_RISK, membership=found, note=note)
