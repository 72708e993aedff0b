"""Conditions under which an audit fails a pipeline, such as ``eps_lb>2``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedkd.errors import ConfigError
from fedkd.registry import did_you_mean

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OF_CHANNELS = (
    "auc",
    "auc_p",
    "tpr_at_fpr_01",
    "tpr_at_fpr_001",
    "eps_lb",
    "eps_ceiling",
    "exposure_mean",
    "exposure_p",
)
OF_UTILITY = (
    "accuracy_mean",
    "server_accuracy",
    "bits_per_character_mean",
    "server_bits_per_character",
)
REDUCTION = "exposure_reduction"
_FORM = re.compile(r"\s*([a-z_0-9]+)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A condition that must not come true.

    Attributes:
        name: a figure; of channels' figures, any counts of an attack that counts in the verdict.
        sign: ``<``, ``<=``, ``>`` or ``>=``.
        limit: what it is compared with.
    """

    name: str
    sign: str
    limit: float

    def failures(self, audit: dict[str, Any]) -> list[str]:
        """Return why an audit fails, one line each; none when it passes.

        A figure that nobody measured fails: nothing passes unseen.
        """
        seen = [(where, value) for where, value in self._values(audit) if value is not None]
        if not seen:
            return [f"{self}: {self.name} was not measured{self._why(audit)}, so it cannot pass"]
        compare = OPERATORS[self.sign]
        return [
            f"{self}: {value:.4g}{where}" for where, value in seen if compare(value, self.limit)
        ]

    def __str__(self) -> str:
        """Return the condition as it was written."""
        return f"{self.name}{self.sign}{self.limit:g}"

    def _values(self, audit: dict[str, Any]) -> list[tuple[str, float | None]]:
        if self.name in OF_CHANNELS:
            return [
                (f" ({row['attack']} on {row['channel']})", row[self.name])
                for row in audit["channels"]
                if row["decides"]
            ]
        if self.name in OF_UTILITY:
            return [("", audit["utility"][self.name])]
        return [("", audit[REDUCTION])]

    def _why(self, audit: dict[str, Any]) -> str:
        reason = audit["exposure_reduction_reason"] if self.name == REDUCTION else None
        return f" ({reason})" if reason else ""


def gate(text: str) -> Gate:
    """Read a condition; ConfigError for an unknown figure or another form."""
    form = _FORM.fullmatch(text)
    known = (*OF_CHANNELS, *OF_UTILITY, REDUCTION)
    if form is None:
        raise ConfigError(
            f"--fail-on: {text!r} is no condition; write a figure, one of < <= > >=, and a "
            "number, such as 'eps_lb>2'"
        )
    name, sign, number = form.groups()
    if name not in known:
        raise ConfigError(f"--fail-on: no figure called {name!r}{did_you_mean(name, known)}")
    try:
        return Gate(name=name, sign=sign, limit=float(number))
    except ValueError:
        raise ConfigError(f"--fail-on: {number!r} in {text!r} is no number") from None
