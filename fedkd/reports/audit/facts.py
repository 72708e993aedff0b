"""What identifies an audited run and its threat model, as names and values."""

from __future__ import annotations

from typing import Any

from fedkd.reports.audit.words import adversary_words, component, plain


def title(run: dict[str, Any]) -> str:
    """Return scenario, method and protection of a run."""
    guarded = component(run["protector"])
    return f"{plain(run['scenario'])}, {plain(run['method'])}, protector {guarded}"


def identity(run: dict[str, Any]) -> list[tuple[str, object]]:
    """Return what is needed to find and repeat a run: settings, hashes, seeds, versions."""
    return [
        ("scenario", plain(run["scenario"])),
        ("method", plain(run["method"])),
        ("protector", component(run["protector"])),
        ("server view", plain(run["server_view"])),
        ("proxy set", plain(run["proxy"])),
        ("clients, rounds", f"{plain(run['clients'])}, {plain(run['rounds'])}"),
        ("seeds", plain(run["seeds"])),
        ("versions", plain(run["versions"])),
        ("scenario hash", plain(run["scenario_hash"])),
        ("result hash", plain(run["result_hash"])),
        ("transcript", plain(run["transcript_sha256"])),
        ("data", plain(run["data_sha256"])),
        ("model", plain(run["model_sha256"])),
        ("run folder", plain(run["dir"])),
    ]


def threats(result: dict[str, Any]) -> list[tuple[str, object]]:
    """Return adversaries, unit, neighboring relation, delta, and what was released how often."""
    claim, ledger = result["claim"], result["ledger"]
    adversaries = dict.fromkeys(str(row["adversary"]) for row in result["channels"])
    counts = [client["releases"] or 0 for client in ledger["clients"]]
    released = "nothing is in the ledger"
    if counts:
        least, most = min(counts), max(counts)
        each = f"{least}" if least == most else f"{least} to {most}"
        released = f"{each} counted releases by each of {len(counts)} clients"
    changes = dict.fromkeys(str(row["eps_unit"]) for row in result["channels"] if row["eps_unit"])
    return [
        *((f"adversary: {name}", adversary_words(name)) for name in adversaries),
        ("unit of privacy", plain(claim["unit"])),
        ("neighboring relation, formal", plain(claim.get("neighboring"))),
        ("neighboring relation, measured", "; ".join(changes) or "nothing was bounded"),
        ("whom to trust", plain(claim.get("trust"))),
        ("delta", plain(claim["delta"])),
        ("released", released),
    ]
