"""A line of text that gives a person's secret code away: "the code of NAME is #DDDD".

After Carlini et al.: The Secret Sharer, 2019, https://arxiv.org/abs/1802.08232, who hide random
digits behind a fixed phrase.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from fedkd.canaries.base import Canary, CanaryFamily, Probes, canary_families
from fedkd.data.datasets.base import Arrays
from fedkd.errors import ConfigError
from fedkd.rng import numpy_stream

_BEFORE, _BETWEEN, _AFTER = "\nthe code of ", " is #", "\n"
_NAME = re.compile(r"(?<= )[a-z]{4,9}(?= )")
_LONGEST_NAME = 9


@canary_families.register("code")
@dataclass(frozen=True)
class Code(CanaryFamily):
    """k = 10^digits; the names are words of the test text, a different one for each canary.

    Every insertion is a window of its own: the whole line, at a random place in a piece of a
    random training window (of any author). A candidate's loss is that of its digits alone, in one
    fixed window of test text. The rest of the line is the same for every candidate before the
    first digit, and after the last one it tells nothing about memory of the digits, so scoring the
    whole line would rank alike but for noise.

    Nothing depends on training rows but the surroundings of insertions: probes are the same before
    and after the canaries are planted.

    Attributes:
        digits: of the secret.
    """

    digits: Annotated[int, Ge(1), Le(9)] = 4

    def n_secrets(self, arrays: Arrays) -> int:
        """Return 10^digits; ConfigError for data that is no text, or short windows."""
        if arrays.train_labels.ndim != 2 or not arrays.words:
            raise ConfigError(
                "canaries.family: 'code' hides a line in a text, and this data set is none; use "
                "data=gutenberg_mini, or the family 'secret_label'"
            )
        missing = sorted(set(self._line("", "0123456789")) - set(arrays.words))
        if missing:
            raise ConfigError(
                f"canaries.family: 'code' writes {missing[0]!r}, which the data set's alphabet "
                "lacks; use a data set with letters, digits, '#' and line breaks"
            )
        needed = len(self._line("x" * _LONGEST_NAME, "0" * self.digits)) + 1
        if arrays.train_labels.shape[1] < needed:
            raise ConfigError(
                f"canaries.family: a line of 'code' needs {needed} characters, but windows have "
                f"{arrays.train_labels.shape[1]}; use data.window={needed} or more, or fewer digits"
            )
        return int(10**self.digits)

    def rows(
        self, arrays: Arrays, canary: Canary, *, rng: np.random.Generator
    ) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Return ``insertions`` windows that hold the line, each in other surroundings."""
        line = _numbers(arrays, self._line(_name(arrays, canary), self._code(canary.secret)))
        picks = rng.integers(len(arrays.train_inputs), size=canary.insertions)
        around = _with_last(arrays.train_inputs[picks], arrays.train_labels[picks])
        places = rng.integers(around.shape[1] - len(line) + 1, size=canary.insertions)
        whole = np.stack(
            [_inserted(text, line, place) for text, place in zip(around, places, strict=True)]
        )
        return whole[:, :-1].astype(arrays.train_inputs.dtype), whole[:, 1:]

    def probes(self, arrays: Arrays, canary: Canary, secrets: NDArray[np.int64]) -> Probes:
        """Return one window a candidate; only where a digit of it is predicted is scored."""
        rng = numpy_stream(canary.seed, "canary probe", client=canary.number)
        name = _name(arrays, canary)
        line = _numbers(arrays, self._line(name, self._code(0)))
        pick = rng.integers(len(arrays.test_inputs), size=1)
        around = _with_last(arrays.test_inputs[pick], arrays.test_labels[pick])[0]
        place = int(rng.integers(len(around) - len(line) + 1))
        start = place + len(_BEFORE + name + _BETWEEN)
        whole = np.repeat(_inserted(around, line, place)[None], len(secrets), axis=0)
        powers = 10 ** np.arange(self.digits - 1, -1, -1)
        digits = _numbers(arrays, "0123456789")[secrets[:, None] // powers % 10]
        whole[:, start : start + self.digits] = digits
        scored = np.zeros((len(secrets), whole.shape[1] - 1), dtype=np.bool_)
        scored[:, start - 1 : start - 1 + self.digits] = True
        return Probes(
            inputs=whole[:, :-1].astype(arrays.test_inputs.dtype),
            labels=np.ascontiguousarray(whole[:, 1:]),
            scored=scored,
        )

    def words(self, arrays: Arrays, canary: Canary) -> str:
        """Return for example ``"the code of morning is #0427"``."""
        return self._line(_name(arrays, canary), self._code(canary.secret)).strip()

    def _line(self, name: str, code: str) -> str:
        return f"{_BEFORE}{name}{_BETWEEN}{code}{_AFTER}"

    def _code(self, secret: int) -> str:
        return f"{secret:0{self.digits}d}"


def _name(arrays: Arrays, canary: Canary) -> str:
    """Return the canary's word; ConfigError when the text has too few."""
    names = _names(arrays.test_inputs.tobytes(), arrays.test_inputs.shape[1], arrays.words)
    if canary.number >= len(names):
        raise ConfigError(
            f"canaries: canary {canary.number} needs a name of its own, but the test text has only "
            f"{len(names)} words of 4 to 9 letters; plant fewer, or take more text"
        )
    order = numpy_stream(canary.seed, "canary names").permutation(len(names))
    return names[order[canary.number]]


@lru_cache(maxsize=2)
def _names(windows: bytes, length: int, alphabet: tuple[str, ...]) -> tuple[str, ...]:
    """Return the different whole words of the windows (int16, row by row), sorted."""
    rows = np.frombuffer(windows, dtype=np.int16).reshape(-1, length)
    texts = ("".join(alphabet[number] for number in row) for row in rows.tolist())
    return tuple(sorted({word for text in texts for word in _NAME.findall(text)}))


def _numbers(arrays: Arrays, text: str) -> NDArray[np.int64]:
    return np.array([arrays.words.index(character) for character in text], dtype=np.int64)


def _with_last(inputs: NDArray[np.generic], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return windows with the character after their end, int64 ``[n, window + 1]``."""
    return np.concatenate([inputs.astype(np.int64), labels[:, -1:]], axis=1)


def _inserted(text: NDArray[np.int64], line: NDArray[np.int64], place: int) -> NDArray[np.int64]:
    """Return ``text`` with ``line`` put in at ``place``, as long as it was."""
    return np.concatenate([text[:place], line, text[place : len(text) - len(line)]])
