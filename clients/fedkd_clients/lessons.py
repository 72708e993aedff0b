"""Lessons that clients of one process share."""

from __future__ import annotations

from fedkd.distillers.base import Distiller
from fedkd.training.steps import Lesson, lesson_on
from fedkd.types import Consensus, ProxySet


class Lessons:
    """Makes the lesson of a consensus once for all clients whose proxy inputs are the same.

    Args:
        rows_per_input: rows that one input answers.
    """

    def __init__(self, *, rows_per_input: int) -> None:
        self._rows_per_input = rows_per_input
        self._newest: tuple[tuple[object, ...], Lesson] | None = None

    def on(self, teacher: Consensus, proxy: ProxySet, distiller: Distiller) -> Lesson:
        """Return what a client learns from a consensus about its proxy set."""
        wanted = (teacher, distiller, proxy.inputs)
        if self._newest is not None:
            known, lesson = self._newest
            if all(a is b for a, b in zip(known, wanted, strict=True)):
                return lesson
        lesson = lesson_on(
            teacher, proxy.inputs, distiller=distiller, rows_per_input=self._rows_per_input
        )
        self._newest = (wanted, lesson)
        return lesson
