"""Coverage-guided fuzzing of all that reads strangers' bytes (atheris, libFuzzer).

    python -m tests.fuzz.fuzz_decoder CORPUS [SECONDS]

Writes real messages into CORPUS, then looks for SECONDS (60) for bytes that reading answers with
anything but a sound record or a documented error, that take more than a second, or that make it
allocate 256 MiB at once. Such bytes end the run with an exit status that is not 0, and are left
in CORPUS as ``crash-...``, ``timeout-...`` or ``oom-...``; put them into ``test_decoder.py``.
"""

from __future__ import annotations

import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fedkd.transport", "fedkd_server.validation"]):
    from tests.fuzz import harness, real_messages

SECONDS, LONGEST, MALLOC_MIB = 60, 4096, 256


def seeded(corpus: Path) -> None:
    """Write a real message of every kind, in each of the ways bytes are read."""
    corpus.mkdir(parents=True, exist_ok=True)
    kinds = (
        real_messages.replies(),
        real_messages.requests(),
        real_messages.files(),
        real_messages.frames(),
    )
    for way, made in enumerate(kinds):
        for name, data in made.items():
            (corpus / f"{way}-{name.replace(' ', '-')}").write_bytes(bytes([way]) + data)


def one_input(data: bytes, *, corpus: Path) -> None:
    """Read one input, and keep it beside the corpus if it breaks something.

    libFuzzer would write it too, but its alarm may end the process while Python is shut down.
    """
    try:
        harness.swallow(data)
    except BaseException:
        (corpus / f"crash-{sha256(data).hexdigest()[:40]}").write_bytes(data)
        raise


def main() -> None:
    """Fuzz as the command line says."""
    corpus = Path(sys.argv[1])
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    seeded(corpus)
    harness.intakes()
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-malloc_limit_mb={MALLOC_MIB}",
        "-timeout=5",
        "-seed=1",
        f"-artifact_prefix={corpus}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], partial(one_input, corpus=corpus))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
