"""Text as numbers: one fixed alphabet for all text data sets, and its cut into windows.

The alphabet is public and never derived from anybody's text, so it tells nothing about it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedkd.data.datasets.base import Arrays
from fedkd.errors import ConfigError

ALPHABET = f"\n {string.digits}#{string.ascii_lowercase}{string.ascii_uppercase}!\"'(),-.:;?"
"""Token ``i`` is the character ``ALPHABET[i]``; 76 of them."""

Codes = NDArray[np.int16]

_ALIKE = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "`": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u00ab": '"',
        "\u00bb": '"',
        "\u2013": "-",
        "\u2014": "--",
        "\u2026": "...",
        "[": "(",
        "]": ")",
        "&": "and",
        "\u00df": "ss",
        "\u00e6": "ae",
        "\u00c6": "AE",
        "\u0153": "oe",
    }
)
_OTHER = re.compile(f"[^{re.escape(ALPHABET)}]")
_NUMBER = {character: number for number, character in enumerate(ALPHABET)}


def folded(text: str) -> str:
    """Return ``text`` in the alphabet: accents and other characters go, blanks are single."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_ALIKE)
    text = _OTHER.sub("", unicodedata.normalize("NFKD", re.sub(r"[^\S\n]+", " ", text)))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n", "\n", re.sub(" +", " ", text))).strip()


def codes(text: str) -> Codes:
    """Return the numbers of a text's characters, ``[len(text)]``.

    Raises:
        ConfigError: a character is not in the alphabet.
    """
    try:
        return np.array([_NUMBER[character] for character in text], dtype=np.int16)
    except KeyError as error:
        raise ConfigError(
            f"{error.args[0]!r} is not in the alphabet of text data sets; it has {ALPHABET[1:]}"
        ) from None


def windowed(texts: Sequence[tuple[str, Codes]], *, window: int, test_fraction: float) -> Arrays:
    """Cut each text, one a stratum, into windows that do not overlap.

    The end of every text, a share ``test_fraction`` of it, is the test set.

    Args:
        texts: name, for messages, and codes of each.
        window: positions of an input; its labels are the characters one further on.
        test_fraction: between 0 and 1.

    Raises:
        ConfigError: a text is too short for 2 training windows and a test window.
    """
    train: list[Codes] = []
    test: list[Codes] = []
    for name, text in texts:
        cut = len(text) - round(test_fraction * len(text))
        train.append(_windows(text[:cut], window))
        test.append(_windows(text[cut:], window))
        if len(train[-1]) < 2 or len(test[-1]) < 1:
            raise ConfigError(
                f"{name}: {len(text)} characters of the alphabet are too few for 2 training "
                f"windows and 1 test window of {window}; give a longer text or a smaller window"
            )
    rows, held_out = np.concatenate(train), np.concatenate(test)
    return Arrays(
        train_inputs=np.ascontiguousarray(rows[:, :-1]),
        train_labels=rows[:, 1:].astype(np.int64),
        test_inputs=np.ascontiguousarray(held_out[:, :-1]),
        test_labels=held_out[:, 1:].astype(np.int64),
        n_classes=len(ALPHABET),
        strata=np.repeat(np.arange(len(train)), [len(part) for part in train]),
        words=tuple(ALPHABET),
    )


def _windows(text: Codes, window: int) -> Codes:
    """Return ``[n, window + 1]``: each row ends with the character the next one starts with."""
    if len(text) <= window:
        return np.zeros((0, window + 1), dtype=np.int16)
    return np.lib.stride_tricks.sliding_window_view(text, window + 1)[::window]
