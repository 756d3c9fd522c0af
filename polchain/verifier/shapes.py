"""The shape of a certificate's facts: which fields, of which kind. What they say may still be false.

    str, bool            that type              [shape, n]     a list of at most n such; of ITEMS, if no n is told
    NUMBER               a decimal string       {str: shape}   any names, ITEMS at most, such values
    (low, high)          a whole number         ("a", "b")     one of these words
    Maybe(shape)         may be absent          a pattern      a string that it matches whole

`certificate` writes what `embedded` reads by this.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from polchain.errors import FormatError
from polchain.verifier.certificate import FORMAT, POINTS

__all__ = ["check_facts"]


class Maybe:
    """A field that may be absent."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


NUMBER: Final = float  # a decimal string that may be nan or inf; empty where nothing is known
SECONDS: Final = (1 - 2**53, 2**53 - 1)  # since 1970: a block's time is what its maker wrote
COUNT: Final = (0, 2**53 - 1)
ITEMS: Final = 10_000
PARTIES: Final = 64  # claims, and models in dispute
VERDICTS: Final = 128  # of all claims together: each is drawn
DRAWN: Final = POINTS + 1  # every n-th checkpoint, and the last
NAMES: Final = [str]
NAME: Final = re.compile(r"[A-Z]")
SEED: Final = re.compile(r"(?:[0-9a-f]{64})?")
# What no second verification compares: short, and of one line.
VERSION: Final = re.compile(r"[0-9A-Za-z.+!-]{1,40}")
CIRCUMSTANCE: Final = re.compile(r"[^\n]{0,300}")
MOMENT: Final = {"low": Maybe(SECONDS), "high": Maybe(SECONDS)}
BOUND: Final = {
    "status": str,
    "time": Maybe(SECONDS),
    "source": Maybe(str),
    "margin": Maybe(COUNT),
    "weak": Maybe(NAMES),
}
TIMED: Final = {"time": Maybe(SECONDS), "margin": Maybe(COUNT), "weak": Maybe(NAMES)}
TIMES: Final = {
    "anchors": [{"source": str, "size": COUNT, "status": str, "step": Maybe(COUNT), "reason": str, **TIMED}],
    "intervals": [
        {"first_step": COUNT, "last_step": COUNT, "not_before": BOUND, "not_after": BOUND, "weaker": [BOUND]}
    ],
    "beacon": Maybe(
        {"network": str, "chain": COUNT, "block": COUNT, "status": str, "counts_as": str, "reason": str, **TIMED}
    ),
}
VERDICT: Final = {
    "verdict": ("REFUTED", "INCONCLUSIVE", "COMPUTED", "CONSISTENT", "VERIFIED"),
    "meaning": str,
    "reasons": NAMES,
    "origin": str,
    "key": str,
    "key_pinned": bool,
    "entries": COUNT,
    "steps": COUNT,
    "recipe_vouched": bool,
    "bound": {
        "draws": COUNT,
        "fraction": NUMBER,
        "confidence": NUMBER,
        "escape": NUMBER,
        "supported": NUMBER,
        "replayed_steps": COUNT,
        "met": bool,
        "sentence": str,
    },
    "swap": {"checked": bool, "distance": NUMBER, "share": NUMBER, "escape": NUMBER, "sentence": str},
    "screens": [{"what": str, "reason": str}],
    "behaviour": [{"test": str, "finding": str, "reason": str}],
    "replays": [
        {
            "what": str,
            "picked": NAMES,
            "outcome": ("EXACT", "WITHIN", "REFUTED", "INCONCLUSIVE"),
            "rho": NUMBER,
            "tau": NUMBER,
            "noise": NUMBER,
            "seconds": NUMBER,
            "earlier": bool,
            "reason": str,
        },
        65_536,
    ],
    "sandbox": CIRCUMSTANCE,
    "remarks": NAMES,
    "last_state": Maybe(str),
    "recipe": Maybe(str),
    "challenge_seed": Maybe(str),
    "budget": Maybe(NUMBER),
    "calibration": Maybe({str: str}),
    **TIMES,
}
MODEL: Final = {
    "model": str,
    "outcome": str,
    "named": NAMES,
    "sentence": str,
    "claims": [
        {
            "claim": str,
            "covers": bool,
            "worked": bool,
            "exact": bool,
            "evidence": MOMENT,
            "start": MOMENT,
            "beacon": MOMENT,
            "not_before": Maybe(SECONDS),
            "step": Maybe(COUNT),
            "entry": Maybe(COUNT),
            "distance": Maybe(NUMBER),
        },
        PARTIES,
    ],
    "pairs": [
        {
            "between": NAMES,
            "outcome": str,
            "basis": str,
            "named": NAMES,
            "sentence": str,
            "descents": [{"claim": str, "from": str, "step": COUNT, "produced_by_step": COUNT, "share": NUMBER}],
        }
    ],
    "ranking": [{"claim": str, "named_against": COUNT}, PARTIES],
    "remarks": NAMES,
}
RULING: Final = {
    "ruling": str,
    "decided": bool,
    "named": NAMES,
    "sentence": str,
    "reasons": NAMES,
    "claims": [
        {
            "name": NAME,
            "claim": str,
            "intact": bool,
            "failure": str,
            "proof": str,
            "origin": Maybe(str),
            "key": Maybe(str),
            "verdicts": [{"last_step": COUNT, **VERDICT}, VERDICTS],
        },
        PARTIES,
    ],
    "models": [MODEL, PARTIES],
    "task": [
        {
            "between": NAMES,
            "outcome": str,
            "convicted": NAMES,
            "sentence": str,
            "segment": str,
            "replayed": COUNT,
            "reasons": NAMES,
        }
    ],
    "not_checked": NAMES,
}
LOST: Final = {"name": NAME, "intact": bool}
CLAIM: Final = {
    "name": NAME,
    "intact": bool,
    "pinned": bool,
    "origin": str,
    "key": str,
    "head": {"size": COUNT, "root": str},
    "genesis": str,
    "foreign": bool,
    "steps": COUNT,
    "final": bool,
    "seed": str,
    "fingerprint": {str: str},
    "key_changes": COUNT,
    "states": COUNT,
    "manifests": COUNT,
    "disclosed": COUNT,
    "checkpoints": {
        "every": (1, 2**53 - 1),
        "steps": [COUNT, DRAWN],
        "updates": [NUMBER, DRAWN],
        "losses": [NUMBER, DRAWN],
    },
    "recipe": {
        "entry": Maybe(str),
        "module": Maybe(bool),
        "arguments": Maybe(NAMES),
        "imports": Maybe(NAMES),
        "program": Maybe(str),
        "files": Maybe([{"path": str, "size": COUNT, "digest": str, "text": str}]),
    },
    "times": TIMES,
    "dataset": Maybe({"samples": COUNT, "root": str}),
    "configuration": Maybe(
        {"steps": COUNT, "batch_size": COUNT, "interval": [[COUNT]], "precision": str, "deterministic": bool}
    ),
    "address": Maybe(str),
    "task": Maybe(str),
    "parent": Maybe(str),
}
FACTS: Final = {
    "format": (FORMAT,),
    "kind": ("verdict", "ruling"),
    "made": {
        "at": SECONDS,
        "versions": dict.fromkeys(("polchain", "python", "torch", "matplotlib", "jinja2"), VERSION),
        "claims": [CIRCUMSTANCE, PARTIES],
        "model": CIRCUMSTANCE,
    },
    "asked": {"seed": SEED, "full": bool, "threads": (0, 512), "model": str, "task": str, "opening": bool},
    "policy": {
        "keys": NAMES,
        "recipes": NAMES,
        "fraction": NUMBER,
        "confidence": NUMBER,
        "top_updates": COUNT,
        "budget": NUMBER,
        "max_swap_escape": NUMBER,
        "distance": NUMBER,
        "bases": COUNT,
        "accept_consistent": bool,
        "calibrations": NAMES,
        "networks": NAMES,
        "authorities": NAMES,
    },
}


def check_facts(value: Any) -> None:
    """Refuse what is not of the shape of a certificate's facts.

    Raises:
        FormatError: a field is missing, unknown, or of another kind; or a list is longer than a page has room for.
    """
    _check(value, {**FACTS, "result": dict, "claims": list}, "facts")
    ruling = value["kind"] == "ruling"
    _check_length(value["claims"], PARTIES, "facts.claims")
    _check(value["result"], RULING if ruling else VERDICT, "facts.result")
    for number, claim in enumerate(value["claims"]):
        lost = ruling and type(claim) is dict and claim.get("intact") is False
        _check(claim, LOST if lost else CLAIM, f"facts.claims[{number}]")
    if ruling and sum(len(one["verdicts"]) for one in value["result"]["claims"]) > VERDICTS:
        raise FormatError(f"facts.result.claims: more than {VERDICTS} verdicts")
    names = [one["name"] for one in value["claims"]]
    wanted = [one["name"] for one in value["result"]["claims"]] if ruling else ["A"]
    if names != wanted or len(set(names)) != len(names) or len(value["made"]["claims"]) != len(names):
        raise FormatError("facts.claims: other claims than the result's")
    for claim in value["claims"]:
        if claim["intact"] and len({len(claim["checkpoints"][key]) for key in ("steps", "updates", "losses")}) != 1:
            raise FormatError("facts.claims: checkpoints of unequal lengths")


def _check(value: Any, shape: Any, where: str) -> None:
    if shape is NUMBER:
        _check_number(value, where)
    elif isinstance(shape, re.Pattern):
        if type(value) is not str or not shape.fullmatch(value):
            raise FormatError(f"{where}: not of the form that was expected")
    elif isinstance(shape, type):
        if type(value) is not shape:
            raise FormatError(f"{where}: {shape.__name__} was expected")
    elif isinstance(shape, tuple) and isinstance(shape[0], int):
        if type(value) is not int or not shape[0] <= value <= shape[1]:
            raise FormatError(f"{where}: a number from {shape[0]} to {shape[1]} was expected")
    elif isinstance(shape, tuple):
        if value not in shape:
            raise FormatError(f"{where}: one of {', '.join(shape)} was expected")
    elif isinstance(shape, list):
        if type(value) is not list:
            raise FormatError(f"{where}: a list was expected")
        _check_length(value, shape[1] if len(shape) > 1 else ITEMS, where)
        for number, item in enumerate(value):
            _check(item, shape[0], f"{where}[{number}]")
    else:
        _check_object(value, shape, where)


def _check_object(value: Any, shape: dict[Any, Any], where: str) -> None:
    if type(value) is not dict:
        raise FormatError(f"{where}: an object was expected")
    if str in shape:
        _check_length(value, ITEMS, where)
        for item in value.values():
            _check(item, shape[str], where)
        return
    unknown = sorted(value.keys() - shape.keys())
    if unknown:
        raise FormatError(f"{where}: unknown field {unknown[0][:60]!a}")
    for name, inner in shape.items():
        if name in value:
            _check(value[name], inner.shape if isinstance(inner, Maybe) else inner, f"{where}.{name}")
        elif not isinstance(inner, Maybe):
            raise FormatError(f"{where}: field {name} is missing")


def _check_length(value: Any, most: int, where: str) -> None:
    if len(value) > most:
        raise FormatError(f"{where}: more than {most} items")


def _check_number(value: Any, where: str) -> None:
    if type(value) is not str or len(value) > 40:
        raise FormatError(f"{where}: a decimal string was expected")
    if value:
        try:
            math.isfinite(float(value))
        except (ValueError, OverflowError):
            raise FormatError(f"{where}: a decimal string was expected") from None
