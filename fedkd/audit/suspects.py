"""Candidate secrets ranked by what was sent: read off the scores themselves, or off a surrogate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedkd.audit.attacks.base import Bench, Truth
from fedkd.audit.attacks.surrogates import lesson_from, sound
from fedkd.audit.scoring import (
    Floats,
    Lineup,
    log_probabilities,
    probe_losses,
)
from fedkd.audit.views import View
from fedkd.canaries.base import Canary
from fedkd.methods.base import CoDistillation
from fedkd.types import Consensus, Knowledge, ProxySet

NO_CANARIES = "no canaries were planted (canaries=null)"
NO_KNOWLEDGE = "this method exchanges no knowledge"


def why_not(bench: Bench, truth: Truth, *, canaries: bool, knowledge: bool) -> str:
    """Return why an attack that needs canaries or knowledge cannot run, or an empty text."""
    if canaries and not truth.planted.canaries:
        return NO_CANARIES
    if knowledge and not isinstance(bench.scenario.method, CoDistillation):
        return NO_KNOWLEDGE
    return ""


def origin(bench: Bench, each: Sequence[Lineup], direct: int) -> str:
    """Return in a sentence or two how candidates were ranked, for a note."""
    read = f"{direct} of {len(each)} were read off their own proxy rows, the rest off a surrogate."
    planted = bench.scenario.canaries
    if planted is None or not planted.in_proxy or _label_only(each[0]):
        return read
    return (
        f"{read} The secrets themselves stand in the proxy set, which this adversary holds in "
        "clear; the figure says what the scores alone would tell."
    )


def unit_of(canaries: Sequence[Canary]) -> str:
    """Return what a bound about these canaries is about, in words.

    All holders of a canary hold the same secret, so another secret changes the data of all.
    """
    holders = max(len(canary.holders) for canary in canaries)
    if holders == 1:
        return "replacing one holder's canary examples, all together"
    return f"replacing a canary's examples at all of its {holders} holders, all together"


def losses_from(
    bench: Bench,
    each: Sequence[Lineup],
    sent: Sequence[Knowledge | Consensus],
    proxy: ProxySet,
    *,
    passes: int,
    seed: int,
) -> tuple[Floats, list[bool]]:
    """Return candidate losses ``[n, k]`` from what was sent, and which were read directly.

    Where a canary's input is a proxy row and only its label is secret, the scores of that row are
    the candidates' probabilities; they are averaged over all copies and rounds. All other canaries
    are asked of a surrogate, distilled from the last thing that was sent.

    Args:
        bench: trains the surrogate.
        each: lineups of equally many candidates.
        sent: round by round, at least one.
        proxy: what the rows are about.
        passes: of the surrogate over the last lesson.
        seed: of the surrogate; the same seed and lesson give the same one.
    """
    places = _places(proxy)
    table = [_direct(lineup, sent, places) for lineup in each]
    direct = [losses is not None for losses in table]
    if not all(direct):
        module = bench.distil(lesson_from(sent[-1], proxy, bench), passes, seed)
        table = [
            probe_losses(module, lineup.probes, task=bench.task) if losses is None else losses
            for lineup, losses in zip(each, table, strict=True)
        ]
    return np.stack([losses for losses in table if losses is not None]), direct


def _places(proxy: ProxySet) -> dict[bytes, list[int]]:
    """Return the positions of each input in the proxy set; none where an input is many rows."""
    found: dict[bytes, list[int]] = {}
    if proxy.rows_per_input == 1:
        for position, row in enumerate(proxy.inputs.cpu().numpy()):
            found.setdefault(row.tobytes(), []).append(position)
    return found


def _direct(
    lineup: Lineup, sent: Sequence[Knowledge | Consensus], places: dict[bytes, list[int]]
) -> Floats | None:
    """Return the mean of -ln p of each candidate label, or None where no row speaks of it."""
    if not _label_only(lineup):
        return None
    own = lineup.probes.inputs[0].tobytes()
    at = torch.tensor(places.get(own, []), dtype=torch.int64)
    spoken = [torch.isin(one.rows.cpu(), at) for one in sent]
    rows = [
        log_probabilities(one)[said.numpy()]
        for one, said in zip(sent, spoken, strict=True)
        if bool(said.any())
    ]
    if not rows:
        return None
    return -np.concatenate(rows).mean(axis=0)[lineup.probes.labels]


def _label_only(lineup: Lineup) -> bool:
    """Return whether all candidates share one input, so that only the label is secret."""
    inputs = lineup.probes.inputs
    return bool((inputs == inputs[:1]).all())


def uploads_by_client(view: View, bench: Bench) -> dict[int, list[Knowledge]]:
    """Return each client's uploads that say anything, in order of their rounds."""
    found: dict[int, list[Knowledge]] = {}
    for n in view.rounds():
        for client, upload in view.uploads(n).items():
            if len(upload):
                whole = sound(upload, bench.task.n_classes)
                found.setdefault(client, []).append(whole)
    return found
