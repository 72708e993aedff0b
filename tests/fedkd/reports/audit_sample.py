"""Audit results for tests: everything present, nothing measured, and hostile text everywhere."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from fedkd.audit.attacks.base import attacks
from fedkd.audit.exposure import exact_exposure, interpolated_exposure
from fedkd.audit.extrapolation import extrapolated_exposure
from fedkd.audit.fair import UNLIKE
from fedkd.audit.findings import Extraction, Membership, Result, extraction, membership
from fedkd.audit.plain import channel_row
from fedkd.audit.power import least_found

LEVELS = (1, 4, 16)
PER_LEVEL = 24
CANDIDATES = 1000
HOSTILE = (
    "</td></svg><script>alert(1)</script><img src=x onerror=alert(1)> $x_{ \"'|`*@b \u202e\x07"
)


def full() -> dict[str, Any]:
    """Return a result with every part of it, by the real statistics on made-up scores."""
    rng = np.random.default_rng(5)
    members = membership(rng.normal(1.2, 1, 1200), rng.normal(0, 1, 1200), rng=rng, delta=1e-5)
    guess = membership(rng.normal(0, 1, 120), rng.normal(0, 1, 120), rng=rng, delta=1e-5)
    strong, weak = _sampled(rng, 3.0), _exact(rng, 0.3)
    names = ["anna", "ben", "cleo"]
    return {
        "schema": 1,
        "kind": "fedkd-audit",
        "run": run(),
        "claim": {
            "level": 2,
            "sentence": "each client's records have (4, 1e-05)-DP, adding or removing one",
            "epsilon": 3.9962,
            "delta": 1e-5,
            "unit": "record",
            "warnings": ["proxy rows were given away in clear"],
            "neighboring": "add or remove one private example of one client",
            "trust": "nobody but the client itself",
        },
        "verdict": {
            "grade": "leak found",
            "sentence": "Canary secrets can be read from the final student.",
            "limits": ["A stronger attack may find more.", "Only the last round was kept."],
        },
        "utility": {"accuracy_mean": 0.8125, "server_accuracy": None},
        "channels": [
            from_membership("uploads", "server", "lira", members),
            from_membership("consensus", "client", "loss_threshold", guess)
            | {"decides": False, "decides_reason": UNLIKE},
            from_extraction("student", "student holder", "exposure", strong),
            from_extraction("uploads", "server", "upload_exposure", weak),
            blank("uploads", "server", "label_distribution")
            | {
                "n": 10,
                "at_risk": "label distribution of clients, and whose proxy rows are whose",
                "labels": [_labels(rng, client) for client in range(10)],
                "figures": [
                    {"name": "mean KL", "value": 0.31, "chance": 1.4, "interval": [0.2, 0.4],
                     "p": 0.0004},
                ],
                "note": "The prior is the public label distribution.",
            },
            blank("side channels", "server", "mask_sizes")
            | {"status": "not seen", "reason": "the server saw sums only"},
        ],
        "class_names": names,
        "canaries": [
            {"number": n, "insertions": level, "holders": [n % 3], "words": f"my code is {n}"}
            for n, level in enumerate(np.repeat(LEVELS, PER_LEVEL).tolist())
        ],
        "exposure_reduction": 0.8241,
        "exposure_reduction_ci": [0.7013, 0.9122],
        "exposure_reduction_reason": None,
        "comparison": {
            "against": run() | {"protector": {"name": "none"}, "result_hash": "ffff0000"},
            "utility": {"accuracy_mean": 0.8311, "server_accuracy": None},
            "rows": [
                {"channel": "student", "adversary": "student holder", "attack": "exposure",
                 "figure": "exposure_mean", "here": 2.8, "there": 9.1, "change": -6.3, "p": 0.0001},
            ],
            "exposure_by_level": [
                {"insertions": 1, "plain": 1.6, "protected": 1.4, "reduction": None, "ci": None,
                 "reason": "the plain exposure is not above the floor"},
                {"insertions": 4, "plain": 4.2, "protected": 1.9, "reduction": 0.83,
                 "ci": [0.6, 1.02], "reason": None},
                {"insertions": 16, "plain": 9.1, "protected": 2.8, "reduction": 0.8241,
                 "ci": [0.7013, 0.9122], "reason": None},
            ],
        },
        "ledger": {
            "unit": "record",
            "target_epsilon": 4.0,
            "clients": [
                {"client": n, "epsilon": 3.9962 - n / 10, "releases": 60,
                 "by_round": [(3.9962 - n / 10) * (r / 20) ** 0.5 for r in range(1, 21)]}
                for n in range(3)
            ],
        },
        "footnotes": ["Intervals are at 95 %."],
        "seconds": 12.34,
    }  # fmt: skip


def minimal() -> dict[str, Any]:
    """Return the result of an audit in which nothing ran and nothing is known."""
    return {
        "schema": 1,
        "kind": "fedkd-audit",
        "run": dict.fromkeys(run()) | {"dir": "", "scenario": "iid", "method": "edgefd",
                                       "seeds": {}, "versions": {}},
        "claim": {"level": 0, "sentence": "no formal guarantee", "epsilon": None, "delta": None,
                  "unit": None, "warnings": []},
        "verdict": {"grade": "could not tell", "sentence": "Nothing ran.", "limits": []},
        "utility": {},
        "channels": [],
        "class_names": [],
        "canaries": [],
        "exposure_reduction": None,
        "exposure_reduction_ci": None,
        "exposure_reduction_reason": None,
        "comparison": None,
        "ledger": {"unit": None, "target_epsilon": None, "clients": []},
        "footnotes": [],
        "seconds": None,
    }  # fmt: skip


def unproved() -> dict[str, Any]:
    """Return the full result without a formal guarantee, a comparison or a target."""
    result = full()
    result["claim"] |= {"level": 0, "sentence": "no formal guarantee", "epsilon": None,
                        "delta": None, "unit": None}  # fmt: skip
    result["ledger"] |= {"target_epsilon": None}
    for client in result["ledger"]["clients"]:
        client |= {"epsilon": None, "by_round": [None] * 20}
    return result | {"comparison": None, "exposure_reduction": None, "exposure_reduction_ci": None}


def hostile() -> dict[str, Any]:
    """Return the full result with an attack in every text that is not one of a fixed few."""
    result = _poisoned(copy.deepcopy(full()))
    return result | {"kind": "fedkd-audit"}


def _poisoned(value: Any) -> Any:
    if isinstance(value, dict):
        fixed = {"status", "grade", "ranking"}
        return {key: item if key in fixed else _poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_poisoned(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def run() -> dict[str, Any]:
    return {
        "dir": "runs/2026-01-01_lm_canary",
        "scenario": "lm_canary",
        "description": "Character models of authors, canaries among their texts.",
        "scenario_hash": "0123456789abcdef",
        "result_hash": "fedcba9876543210",
        "method": "fedmd",
        "protector": {"name": "swing", "temperature": 4.0, "noise_multiplier": 0.5},
        "server_view": "uploads",
        "proxy": "pooled",
        "clients": 3,
        "rounds": 20,
        "seeds": {"run": 0, "canaries": 7},
        "versions": {"fedkd": "0.1.0", "torch": "2.6.0"},
        "transcript_sha256": "aa" * 32,
        "data_sha256": "bb" * 32,
        "model_sha256": "cc" * 32,
    }


def blank(channel: str, adversary: str, attack: str) -> dict[str, Any]:
    """Return a row of an attack that ran and measured nothing."""
    numbers = ("n", "auc", "auc_ci", "auc_p", "tpr_at_fpr_01", "tpr_ci", "tpr_at_fpr_001",
               "tpr_001_ci", "eps_lb", "eps_ceiling", "eps_detectable", "eps_delta",
               "exposure_mean", "exposure_p", "exposure_floor", "exposure_cap", "ranking",
               "roc")  # fmt: skip
    return {
        "channel": channel,
        "adversary": adversary,
        "attack": attack,
        "at_risk": "what clients hold",
        **dict.fromkeys(numbers),
        "eps_unit": "",
        "eps_rule": "",
        "figures": [],
        "note": "",
        "decides": True,
        "decides_reason": "",
        "status": "ran",
        "reason": "",
        "seconds": 1.5,
        "levels": [],
        "exposures": [],
        "labels": [],
    }


def from_membership(channel: str, adversary: str, attack: str, found: Membership) -> dict[str, Any]:
    one, tenth = found.tpr
    step = -(-len(found.roc.fpr) // 200)
    return blank(channel, adversary, attack) | {
        "at_risk": "membership of records",
        "n": found.auc.n_members + found.auc.n_nonmembers,
        "auc": found.auc.value,
        "auc_ci": [found.auc.interval.low, found.auc.interval.high],
        "auc_p": found.auc.p,
        "tpr_at_fpr_01": one.value,
        "tpr_ci": one.interval and [one.interval.low, one.interval.high],
        "tpr_at_fpr_001": tenth.value,
        "tpr_001_ci": tenth.interval and [tenth.interval.low, tenth.interval.high],
        "eps_lb": found.bound.epsilon,
        "eps_ceiling": found.bound.ceiling,
        "eps_detectable": least_found(Result(at_risk="", membership=found)),
        "eps_delta": found.bound.delta,
        "eps_unit": f"{found.bound.relation} record",
        "eps_rule": str(found.bound.rule),
        "roc": {
            "fpr": found.roc.fpr[::step].tolist(),
            "tpr": found.roc.tpr[::step].tolist(),
            "low": found.roc.tpr_low[::step].tolist(),
            "high": found.roc.tpr_high[::step].tolist(),
        },
    }


def from_extraction(channel: str, adversary: str, attack: str, found: Extraction) -> dict[str, Any]:
    most = max(found.levels, key=lambda level: level.insertions)
    result = Result(at_risk="canary secrets", extraction=found)
    told = channel_row(attacks.get("canary_student")(), result, status="ran", reason="")
    return (
        blank(channel, adversary, attack)
        | {
            "at_risk": "canary secrets",
            "n": len(found.insertions),
            "eps_lb": found.bound.epsilon,
            "eps_ceiling": found.bound.ceiling,
            "eps_detectable": least_found(result),
            "eps_delta": found.bound.delta,
            "eps_unit": "replace one holder's canary examples, all insertions together",
            "eps_rule": str(found.bound.rule),
            "exposure_mean": most.mean,
            "exposure_p": most.rank_p,
            "exposure_floor": most.floor,
            "exposure_cap": most.cap,
        }
        | {key: told[key] for key in ("ranking", "levels", "exposures")}
    )


def _sampled(rng: np.random.Generator, strength: float) -> Extraction:
    """Return canaries ranked among drawn secrets; those of the last level have heavy tails."""
    insertions = np.repeat(LEVELS, PER_LEVEL)
    heavy = insertions == LEVELS[-1]
    law = np.where(heavy[:, None], rng.standard_t(3, (len(heavy), CANDIDATES)),
                   rng.normal(0, 1, (len(heavy), CANDIDATES)))  # fmt: skip
    own = rng.normal(0, 1, len(heavy)) - strength * np.log2(insertions + 1)
    beyond = tuple(
        extrapolated_exposure(loss, others, secret_bits=20, rng=rng)
        if loss < others.min()
        else None
        for loss, others in zip(own, law, strict=True)
    )
    return extraction(interpolated_exposure(own, law), insertions, extrapolations=beyond, rng=rng)


def _exact(rng: np.random.Generator, strength: float) -> Extraction:
    insertions = np.repeat(LEVELS, PER_LEVEL)
    own = rng.integers(CANDIDATES, size=len(insertions))
    losses = rng.normal(0, 1, (len(insertions), CANDIDATES))
    losses[np.arange(len(own)), own] -= strength * np.log2(insertions + 1) / 2
    return extraction(exact_exposure(losses, own), insertions, rng=rng)


def _labels(rng: np.random.Generator, client: int) -> dict[str, Any]:
    true = rng.dirichlet([0.4] * 3)
    guessed = 0.8 * true + 0.2 / 3
    kl = float((true * np.log(true / guessed)).sum())
    prior = float((true * np.log(3 * true)).sum())
    return {"client": client, "true": true.tolist(), "guessed": guessed.tolist(), "kl": kl,
            "kl_prior": prior}  # fmt: skip
