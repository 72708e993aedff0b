"""What a run's last kept consensus says of proxy rows, against the truth in the simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkd.audit.views import Adversary
from fedkd.data.federation import arrays_of, true_labels
from fedkd.errors import ConfigError, MissingDataError
from fedkd.methods.base import MessageKind
from fedkd.reports.page import Html, table
from fedkd.runtime import Kept
from fedkd.scenario import Scenario
from fedkd.transcript import Transcript
from fedkd.types import Consensus

MATRIX = 12
"""Up to so many classes, a confusion is shown number by number."""
BLANKS = {" ": "space", "\n": "newline", "\t": "tab"}
"""Characters of a text that nobody sees, by name."""
OWN = "Clients gave own examples to the proxy set; their classes are known to nobody here."
COMMONEST = 20
"""Mistakes that are listed of a confusion of many classes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Confusion:
    """What a consensus says of proxy rows, against the truth.

    Attributes:
        round: the round of the consensus.
        counts: int64 ``[classes, classes]``, rows by true class (first axis) and likeliest class.
        uncovered: int64 ``[classes]``, rows of each true class that nobody kept.
        words: names of the classes; their numbers where the data set has none.
    """

    round: int
    counts: NDArray[np.int64]
    uncovered: NDArray[np.int64]
    words: tuple[str, ...]


def speaks(scenario: Scenario) -> bool:
    """Return whether clients and server exchange knowledge about a proxy set."""
    return scenario.method.message is MessageKind.KNOWLEDGE


def confusion(run: Path, scenario: Scenario) -> tuple[Confusion | None, str]:
    """Return the confusion of the last kept consensus, or None and the reason."""
    if not speaks(scenario):
        return None, "This method makes no consensus."
    if scenario.transcript is Kept.NONE:
        return None, "Not kept; run with transcript=last."
    try:
        seen = Transcript.read(run).seen_by(Adversary.SERVER)
        last = seen.rounds()[-1]
        consensus, ids = seen.consensus(last), seen.proxy().ids.numpy()
        arrays = arrays_of(scenario.layout())
        if len(ids) and int(ids.max()) >= len(arrays.train_labels):
            return None, OWN
        labels = true_labels(scenario.layout(), ids).ravel()
        words = arrays.words
    except (ConfigError, MissingDataError) as error:
        return None, f"Not available here: {error}"
    return confusion_of(consensus, labels, words=words, round=last), ""


def confusion_of(
    consensus: Consensus, labels: NDArray[np.int64], *, words: Sequence[str], round: int
) -> Confusion:
    """Return how a consensus's likeliest classes compare with the true ones.

    Args:
        consensus: of one round.
        labels: int64 ``[proxy rows]``, the true classes.
        words: names of the classes, or none.
        round: the round of the consensus.
    """
    n_classes = consensus.scores.shape[1]
    rows, said = consensus.rows.numpy(), consensus.scores.argmax(dim=1).numpy()
    pairs = np.bincount(labels[rows] * n_classes + said, minlength=n_classes**2)
    held = np.bincount(labels, minlength=n_classes)
    counts = pairs.reshape(n_classes, n_classes).astype(np.int64)
    return Confusion(
        round=round,
        counts=counts,
        uncovered=(held - counts.sum(axis=1)).astype(np.int64),
        words=tuple(BLANKS.get(w, w) for w in words) or tuple(map(str, range(n_classes))),
    )


def confusion_table(confusion: Confusion) -> Html:
    """Return a confusion's counts and the rows that nobody kept, or the commonest mistakes."""
    if len(confusion.words) > MATRIX:
        return _mistakes(confusion)
    header = ["true class", *[f"says {word}" for word in confusion.words], "no keeper"]
    rows = [
        [word, *[str(int(n)) for n in line], str(int(bare))]
        for word, line, bare in zip(
            confusion.words, confusion.counts, confusion.uncovered, strict=True
        )
    ]
    return table(header, rows, caption="Proxy rows", numbers=header[1:])


def _mistakes(confusion: Confusion) -> Html:
    wrong = confusion.counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:COMMONEST]
    pairs = [(int(n) // len(wrong), int(n) % len(wrong)) for n in order]
    rows = [
        [confusion.words[true], confusion.words[said], str(int(wrong[true, said]))]
        for true, said in pairs
        if wrong[true, said]
    ]
    right = int(np.trace(confusion.counts))
    caption = (
        f"The commonest mistakes; {right:,} of {int(confusion.counts.sum()):,} covered rows are "
        f"right, {int(confusion.uncovered.sum()):,} have no keeper"
    )
    return table(["true class", "consensus says", "rows"], rows, caption=caption, numbers=["rows"])
