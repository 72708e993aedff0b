"""The few records that cross between clients and server; read this file first.

Everything a client may tell the server fits into :class:`Knowledge` (soft predictions about proxy
rows) or, for parameter-averaging baselines, :class:`Update`. Everything the server answers fits
into :class:`Consensus` or :class:`Update`. Tensors may live on any device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

SCHEMA = 1
"""Version of the records below, carried by every message and file made from them."""


class Space(StrEnum):
    """What the numbers in a row of scores are; never guessed from their values."""

    LOGITS = "logits"
    PROBS = "probs"


class Wire(StrEnum):
    """The number format that scores travel in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    """11 significant bits: a probability is off by at most a 2,000th of itself."""
    BFLOAT16 = "bfloat16"
    """8 significant bits, the range of float32: off by at most a 256th of itself."""


class ProxySource(StrEnum):
    """Where the rows of a proxy set came from."""

    POOLED = "pooled"
    EXTERNAL = "external"


@dataclass(frozen=True, eq=False, kw_only=True)
class ProxySet:
    """The unlabelled inputs that all clients answer about.

    Attributes:
        inputs: ``[proxy, *features]``, uint8 images (0..255) or float32 rows.
        ids: int64 ``[proxy]``, unique; in a simulation the row's index in the data set.
        owner: int64 ``[proxy]``, the client that contributed a row, or None when nobody did. The
            copy a client receives names only its own rows; all others are ``NOBODY``.
        source: how the rows were obtained. ``POOLED`` rows are raw private examples in clear.
        version: grows by one whenever the server replaces the set.
        rows_per_input: scores that one input is asked for: 1, or the positions of a sequence.
            Both sides know it from the task; it does not travel.
    """

    inputs: Tensor
    ids: Tensor
    owner: Tensor | None
    source: ProxySource
    version: int = 1
    rows_per_input: int = 1

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def n_rows(self) -> int:
        """Rows that clients answer: row ``i`` is about input ``i // rows_per_input``."""
        return len(self) * self.rows_per_input

    def seen_by(self, client: int) -> ProxySet:
        """Return the copy a client gets: it learns which rows are its own, and no other owner."""
        if self.owner is None:
            return self
        nobody = torch.full_like(self.owner, NOBODY)
        return replace(self, owner=torch.where(self.owner == client, self.owner, nobody))


LOGIT_LIMIT = 1e4
"""Largest magnitude of a logit that crosses."""

NOBODY = -1
"""Owner of a proxy row whose contributor the reader is not told."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Knowledge:
    """One client's scores for some proxy rows: its upload.

    Attributes:
        rows: int64 ``[n]``, ascending positions among the proxy set's rows, each at most once.
        scores: float32 ``[n, classes]``; what came in another ``wire`` is kept in its type until
            it is summed.
        weights: float32 ``[n]`` in (0, 1]; a hard filter sends ones.
        space: what ``scores`` are.
        temperature: the divisor applied to the logits before the softmax (1 for logits).
        classes: int64 ``[classes]``, the client's own label space; or ``[n, k]``, the classes that
            probabilities ``[n, k]`` are about, the rest being spread evenly over all others; or
            None for the common label space.
        bits: probabilities are whole multiples of 1 / (2^bits - 1) and travel as such; None for
            any float32.
        row_temperatures: float32 ``[n]``, each row's own divisor in place of ``temperature``, or
            None when they all have that one. Tells the reader how private a row was thought to be.
        wire: a number format that holds every score exactly, in which they travel.
    """

    rows: Tensor
    scores: Tensor
    weights: Tensor
    space: Space
    temperature: float = 1.0
    classes: Tensor | None = None
    bits: int | None = None
    row_temperatures: Tensor | None = None
    wire: Wire = Wire.FLOAT32

    def __len__(self) -> int:
        return self.rows.shape[0]


@dataclass(eq=False, kw_only=True, slots=True)
class Update:
    """Model parameters, for baselines that average weights; not to be changed.

    Attributes:
        arrays: float32 parameter tensors by name, in the module's own order; parts of one vector
            (``flat.FlatArrays``) where they are to be added up.
        weight: the sender's share in an average (a client's number of training examples).
    """

    arrays: Mapping[str, Tensor]
    weight: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Consensus:
    """What the server made of a round's uploads: the teacher of the next round.

    Attributes:
        rows: int64 ``[m]``, ascending proxy positions that somebody kept; others are absent.
        scores: float32 ``[m, classes]``.
        space: what ``scores`` are.
        temperature: the temperature the scores were softened with.
        keepers: int64 ``[m]``, how many clients kept each row; None in the copy that clients get.
        row_temperatures: float32 ``[m]``, each row's own in place of ``temperature``, or None.
        wire: a number format that holds every score exactly, in which they travel.
    """

    rows: Tensor
    scores: Tensor
    space: Space
    temperature: float
    keepers: Tensor | None
    row_temperatures: Tensor | None = None
    wire: Wire = Wire.FLOAT32

    def __len__(self) -> int:
        return self.rows.shape[0]


Upload = Knowledge | Update
Broadcast = Consensus | Update
