"""Client ids of a line in a file: each row of neighbors by its first and its last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MOST_IDS = 10_000_000
"""More than any line names; a damaged number must not fill the memory."""


def to_spans(ids: Sequence[int]) -> list[list[int]]:
    """Return ascending ids as ``[[first, last], ...]``, both of them included."""
    ends = [n for n in range(1, len(ids)) if ids[n] != ids[n - 1] + 1]
    return [[ids[a], ids[b - 1]] for a, b in zip([0, *ends], [*ends, len(ids)], strict=True)]


def from_spans(spans: Iterable[Iterable[object]]) -> tuple[int, ...]:
    """Return the ids that :func:`to_spans` was given; ValueError or TypeError for anything else."""
    ids: list[int] = []
    for first, last in spans:
        if type(first) is not int or type(last) is not int:
            raise TypeError(f"{first!r} to {last!r}: ids are whole numbers")
        if last < first or len(ids) + last - first >= MOST_IDS:
            raise ValueError(f"{first} to {last} is no range of ids")
        ids += range(first, last + 1)
    return tuple(ids)
