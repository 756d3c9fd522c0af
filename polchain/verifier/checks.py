"""The checks of a certificate: each as pass, fail or not checked, from its facts alone.

A check passes where the facts say that it held, and nowhere else: what is in doubt was not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["FAIL", "PASS", "UNCHECKED", "Check", "checks_of"]

PASS: Final = "pass"
FAIL: Final = "fail"
UNCHECKED: Final = "not checked"
REPRODUCED: Final = ("EXACT", "WITHIN")

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was looked at, what came of it (`pass`, `fail`, `not checked`), and why."""

    name: str
    status: str
    text: str = ""


def checks_of(claim: Facts, verdict: Facts | None, failure: str = "", *, forked: bool = False) -> list[Check]:
    """The checks of one claim.

    Args:
        claim: what the certificate says of it.
        verdict: its verdict; None where it was not verified.
        failure: what integrity refused; empty where it holds.
        forked: whether another claim of the same log contradicts it.
    """
    if not claim["intact"]:
        return [
            Check("integrity", FAIL, failure),
            Check("everything else", UNCHECKED, "a claim that fails integrity is evidence of nothing"),
        ]
    found = [*_integrity(claim, forked), *_time(claim)]
    if verdict is None:
        return [*found, Check("replay", UNCHECKED, "nothing was replayed for this ruling")]
    return [*found, *_work(claim, verdict)]


def _integrity(claim: Facts, forked: bool) -> Iterator[Check]:
    states, listed, stored = claim["states"], claim["manifests"], claim["disclosed"]
    yield Check("files: limits, paths, canonical bytes, none missing and none extra", PASS)
    if claim["pinned"]:
        yield Check("the key is the one that the verifier had from elsewhere", PASS, claim["key"])
    else:
        yield Check("the key is the one that the verifier had from elsewhere", UNCHECKED, "no key was given")
    yield Check("the head's signature and origin", PASS, f"{claim['head']['size']:,} entries")
    yield Check("entries rebuild the signed root; each follows from those before", PASS)
    yield Check("entries in order, steps by the schedule", PASS)
    if claim["foreign"] or not claim["seed"]:
        yield Check("batches follow from the seed", UNCHECKED, "the run's loop was not polchain's, or has not begun")
    else:
        yield Check("batches follow from the seed", PASS)
    if listed:
        yield Check("manifests match the log", PASS, f"{listed:,} of {states:,} states")
    if stored:
        yield Check("tensors match their manifests", PASS, f"{stored:,} of {states:,} states")
    if stored < states or listed < states:
        yield Check(
            "states that are not disclosed", UNCHECKED, f"{states - min(stored, listed):,} of {states:,} states"
        )
    name = "all heads that were shown extend one log"
    yield Check(name, FAIL, "another claim of this log contradicts it") if forked else Check(name, PASS)


def _time(claim: Facts) -> Iterator[Check]:
    times = claim["times"]
    for anchor in times["anchors"]:
        name = f"anchor of the head of {anchor['size']:,} entries, {anchor['source']}"
        status = {"final": PASS, "refused": FAIL}.get(anchor["status"], UNCHECKED)
        weak = f"weak: {', '.join(anchor['weak'])}" if anchor.get("weak") else ""
        yield Check(name, status, "; ".join(part for part in (anchor["status"], anchor["reason"], weak) if part))
    if not times["anchors"]:
        yield Check("when the log was written", UNCHECKED, "it has no anchors")
    beacon = times.get("beacon")
    if beacon is not None:
        status = PASS if beacon["counts_as"] == "beacon" else UNCHECKED
        yield Check("the seed comes from a block that nobody knew before", status, beacon["reason"])
    elif claim["seed"]:
        sources = {"task": "the task's seed, bound to no key", "prover": "the prover's own choice"}
        text = sources.get(claim["seed"], "nothing is known of the block")
        yield Check("the seed comes from a block that nobody knew before", UNCHECKED, text)


def _work(claim: Facts, verdict: Facts) -> Iterator[Check]:
    if claim["recipe"]:
        told = "read and accepted by the verifier" if verdict["recipe_vouched"] else "nobody vouched for it"
        yield Check("the recipe's text", PASS if verdict["recipe_vouched"] else UNCHECKED, told)
    replays = verdict["replays"]
    first = next((one for one in replays if one["what"] == "initial state"), None)
    name = "the initial state is the one that the seed gives"
    yield Check(name, UNCHECKED, "it was not built") if first is None else _replayed(name, [first])
    segments = [one for one in replays if one is not first]
    if not segments:
        yield Check("replayed segments", UNCHECKED, "none was replayed")
    for outcomes, told in (
        (REPRODUCED, "replayed segments"),
        (("REFUTED",), "segments that convict"),
        (("INCONCLUSIVE",), "segments that came to no end"),
    ):
        mine = [one for one in segments if one["outcome"] in outcomes]
        if mine:
            yield _replayed(told, mine)
    if verdict["verdict"] == "REFUTED" and not any(one["outcome"] == "REFUTED" for one in replays):
        yield Check("what the log states", FAIL, "; ".join(verdict["reasons"]))
    bound = verdict["bound"]
    yield Check("the bound that the verifier asked for", PASS if bound["met"] else UNCHECKED, bound["sentence"])
    if not verdict["swap"]["checked"]:
        yield Check("the swap bound", UNCHECKED, verdict["swap"]["sentence"].removeprefix("not checked: "))
    outcome = {one["what"]: one["outcome"] for one in replays}
    for flag in verdict["screens"]:
        came = outcome.get(flag["what"])
        status = PASS if came in REPRODUCED else FAIL if came == "REFUTED" else UNCHECKED
        then = "replayed and reproduced" if status == PASS else "refuted" if status == FAIL else "not reproduced"
        yield Check(f"a screen flagged {flag['what']}", status, f"{flag['reason']}; {then}")
    for test in verdict["behaviour"]:
        status = {"passed": PASS, "failed": FAIL}.get(test["finding"], UNCHECKED)
        yield Check(f"test of behaviour: {test['test']}", status, test["reason"])


def _replayed(name: str, replays: list[Any]) -> Check:
    counts = {kind: sum(one["outcome"] == kind for one in replays) for kind in ("EXACT", "WITHIN")}
    if all(one["outcome"] in REPRODUCED for one in replays):
        told = [f"{counts['EXACT']:,} exactly"] if counts["EXACT"] else []
        told += [f"{counts['WITHIN']:,} within tau"] if counts["WITHIN"] else []
        return Check(name, PASS, ", ".join(told))
    worst = next(one for one in replays if one["outcome"] not in REPRODUCED)
    rest = f"; and {len(replays) - 1:,} more" if len(replays) > 1 else ""
    status = FAIL if any(one["outcome"] == "REFUTED" for one in replays) else UNCHECKED
    return Check(name, status, f"{worst['what']}: {worst['reason']}{rest}")
