"""The facts of a certificate: Verdict or Ruling -> one JSON value, from which alone the page is made.

    format   polchain-certificate/v1
    kind     verdict, or ruling
    made     circumstances: when, with which versions, under which file names. Nobody can check them
    asked    how it was asked for: the draw's seed, --full, --threads, --model, --task, --opening
    policy   what the verifier trusted and demanded
    result   the verdict or the ruling, as `verify --json` prints it
    claims   of each claim: whose log, its head, recipe, data, checkpoints and when they were made

Floats are decimal strings, as in verdicts. `compared` leaves out what no second verification can find again.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from polchain.core.claim import checkpoint_name, manifest_name
from polchain.core.digest import blake3
from polchain.core.encoding import JSON, MAX_INTEGER
from polchain.core.entries import CheckpointEntry, encode_entry, leaf_data
from polchain.core.merkle import leaf_hash
from polchain.training.fingerprint import FIELDS
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.policy import Policy
from polchain.verifier.ruling import ClaimFacts, Ruling
from polchain.verifier.times import Times, plain
from polchain.verifier.verdict import Verdict

__all__ = ["FORMAT", "Asked", "certify_ruling", "certify_verdict", "compared", "differences"]

FORMAT: Final = "polchain-certificate/v1"
# What a chart can show; of longer logs every n-th checkpoint is kept.
POINTS: Final = 1000
SHOWN: Final = 100
NAME: Final = 250


@dataclass(frozen=True, slots=True)
class Asked:
    """How a verification was asked for, and under which names.

    Attributes:
        claims: the claims' file names, without folders.
        seed: what was drawn from, in hexadecimal; empty where an opening answers a challenge.
        full: whether every segment was to be replayed.
        threads: the thread count that was asked for; 0 for the prover's.
        model: the file name of the weights in dispute; empty for none.
        model_digest: digest of that file; empty where it is none, or a folder.
        task: the digest of the task; empty for none.
        opening: whether an opening discloses what a sealed claim does not.
        versions: of what made the page and replayed, by name.
    """

    claims: tuple[str, ...]
    versions: Mapping[str, str]
    seed: str = ""
    full: bool = False
    threads: int = 0
    model: str = ""
    model_digest: str = ""
    task: str = ""
    opening: bool = False


def certify_verdict(verdict: Verdict, intact: IntactClaim, policy: Policy, asked: Asked) -> dict[str, JSON]:
    """The facts of a certificate of one claim's verdict."""
    claim = _claim("A", intact, verdict.times)
    result = verdict.to_json()
    result["sandbox"] = _short_name(verdict.sandbox)
    return _facts("verdict", result, [claim], policy, asked)


def certify_ruling(ruling: Ruling, policy: Policy, asked: Asked) -> dict[str, JSON]:
    """The facts of a certificate of a ruling between claims."""
    result = ruling.to_json()
    claims: list[JSON] = []
    for facts, name, item in zip(ruling.claims, asked.claims, _objects(result["claims"]), strict=True):
        item["claim"] = _short_name(name)
        for verdict in _objects(item["verdicts"]):
            verdict["sandbox"] = _short_name(str(verdict["sandbox"]))
        claims.append(_party(facts))
    return _facts("ruling", result, claims, policy, asked)


def _facts(kind: str, result: JSON, claims: list[JSON], policy: Policy, asked: Asked) -> dict[str, JSON]:
    made: dict[str, JSON] = {
        "at": int(time.time()),
        "versions": dict(asked.versions),
        "claims": [_short_name(name) for name in asked.claims],
        "model": _short_name(asked.model),
    }
    facts: dict[str, JSON] = {
        "format": FORMAT,
        "kind": kind,
        "made": made,
        "asked": {
            "seed": asked.seed,
            "full": asked.full,
            "threads": asked.threads,
            "model": asked.model_digest,
            "task": asked.task,
            "opening": asked.opening,
        },
        "policy": _policy(policy),
        "result": result,
        "claims": claims,
    }
    cleaned = _text(facts)
    assert isinstance(cleaned, dict)
    return cleaned


def _policy(policy: Policy) -> JSON:
    return {
        "keys": [*sorted(str(key) for key in policy.keys)],
        "recipes": [*sorted(str(digest) for digest in policy.recipes)],
        "fraction": repr(policy.fraction),
        "confidence": repr(policy.confidence),
        "top_updates": policy.top_updates,
        "budget": repr(policy.budget) if policy.budget is not None else "",
        "max_swap_escape": repr(policy.max_swap_escape) if policy.max_swap_escape is not None else "",
        "distance": repr(policy.dispute.distance),
        "bases": len(policy.dispute.bases),
        "accept_consistent": policy.accept_consistent,
        "calibrations": [str(one.digest) for one in policy.calibrations],
        "networks": [*sorted(one.network.name for one in policy.sources.networks)],
        "authorities": [*sorted(one.name for one in policy.sources.tsas)],
    }


def _party(facts: ClaimFacts) -> JSON:
    if facts.intact is None:
        return {"name": facts.name, "intact": False}
    return _claim(facts.name, facts.intact, facts.times)


def _claim(name: str, intact: IntactClaim, times: Times | None) -> JSON:
    genesis, start = intact.genesis, intact.start
    places = intact.claim.places
    stored = [checkpoint_name(entry.state) in places for entry in intact.checkpoints]
    listed = [manifest_name(entry.state) in places for entry in intact.checkpoints]
    value: dict[str, JSON] = {
        "name": name,
        "intact": True,
        "pinned": intact.pinned,
        "origin": intact.head.origin,
        "key": str(genesis.key),
        "head": {"size": intact.head.size, "root": intact.head.root.hex()},
        "genesis": leaf_hash(leaf_data(encode_entry(genesis))).hex(),
        "foreign": genesis.foreign,
        "steps": intact.steps,
        "final": intact.final is not None,
        "seed": start.source if start is not None else "",
        "fingerprint": {k: str(v) for k, v in start.fingerprint.items()} if start is not None else {},
        "key_changes": len(intact.key_changes),
        "states": len(intact.checkpoints),
        "manifests": sum(listed),
        "disclosed": sum(stored),
        "checkpoints": _checkpoints(intact.checkpoints),
        "recipe": _recipe(intact),
        "times": times.to_json() if times is not None else {"anchors": [], "intervals": []},
    }
    if genesis.dataset is not None:
        value["dataset"] = genesis.dataset.to_json()
    if genesis.configuration is not None:
        value["configuration"] = genesis.configuration.to_json()
    if genesis.ethereum is not None:
        value["address"] = f"0x{genesis.ethereum.address.hex()}"
    for key, digest in (("task", genesis.task), ("parent", genesis.parent)):
        if digest is not None:
            value[key] = str(digest)
    return value


def _recipe(intact: IntactClaim) -> dict[str, JSON]:
    recipe = intact.genesis.recipe
    if recipe is None:
        return {}
    files: list[JSON] = [
        {"path": path, "size": len(data), "digest": str(blake3(data)), "text": _decoded(data)}
        for path, data in sorted(intact.recipe.items())
    ]
    return {
        "entry": recipe.entry,
        "module": recipe.module,
        "arguments": list(recipe.arguments),
        "imports": list(recipe.imports),
        "program": str(recipe.program()),
        "files": files,
    }


def _decoded(data: bytes) -> str:
    # Python ends a line at a lone carriage return too: so does the page.
    return data.decode("utf-8", "backslashreplace").replace("\r\n", "\n").replace("\r", "\n")


def _checkpoints(entries: Sequence[CheckpointEntry]) -> JSON:
    """What the log says of its checkpoints: step, size of the update, mean loss; empty where it says nothing."""
    every = -(-len(entries) // POINTS) or 1
    kept = [entry for number, entry in enumerate(entries) if number % every == 0 or number == len(entries) - 1]
    return {
        "every": every,
        "steps": [entry.step for entry in kept],
        "updates": [repr(entry.update.l2) if entry.update is not None else "" for entry in kept],
        "losses": [repr(entry.loss) if entry.loss is not None else "" for entry in kept],
    }


def _short_name(text: str) -> str:
    """What is told apart as a circumstance: one line, and not long."""
    return plain(text)[:NAME]


def _text(value: JSON) -> JSON:
    """The same value as canonical JSON has it: no lone surrogates, which file names may hold, no absurd numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-MAX_INTEGER, min(value, MAX_INTEGER))
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {str(_text(key)): _text(item) for key, item in value.items()}
    return [_text(item) for item in value] if isinstance(value, list) else value


def _objects(value: JSON) -> list[dict[str, JSON]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def compared(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that a second verification with the same draw has to find again.

    Left out: when and with what it was made, names of the claims' files, seconds, what an earlier sitting had replayed,
    what the recipe was run in, and how that machine differs from the prover's: see `_without_machines`.
    """
    value: dict[str, Any] = copy.deepcopy(dict(facts))
    del value["made"]
    result, claims = value["result"], value["claims"]
    verdicts = [(claims[0], result)]
    if value["kind"] == "ruling":
        pairs = list(zip(claims, result["claims"], strict=True))
        verdicts = [(claim, verdict) for claim, item in pairs for verdict in item["verdicts"]]
        for claim, item in pairs:
            del item["claim"]
            result["not_checked"] = _without_machines(result["not_checked"], claim, f"{claim['name']}: ")
    for claim, verdict in verdicts:
        verdict["remarks"] = _without_machines(verdict["remarks"], claim)
        del verdict["sandbox"]
        for replay in verdict["replays"]:
            del replay["seconds"], replay["earlier"]
    return value


def _without_machines(texts: Sequence[str], claim: Mapping[str, Any], before: str = "") -> list[str]:
    """Without what `training.fingerprint.differences` says of the machine that replayed.

    Only a field of the fingerprint, with the value that the claim recorded and a plain one of another machine, once.
    """
    claimed, kept, seen = claim.get("fingerprint", {}), [], set()
    for text in texts:
        name = text.removeprefix(before).partition(":")[0]
        known = name in FIELDS and name in claimed and name not in seen
        recorded = f"{before}{name}: recorded with {plain(claimed[name])}, here " if known else ""
        here = text.removeprefix(recorded)
        if known and text.startswith(recorded) and re.fullmatch(f"{FIELDS[name]}|None", here) and here != claimed[name]:
            seen.add(name)
        else:
            kept.append(text)
    return kept


def differences(shown: Any, found: Any, where: str = "") -> list[str]:
    """Where two facts part, in words: what the certificate says, and what was found."""
    if isinstance(shown, dict) and isinstance(found, dict):
        lines = []
        for key in sorted(shown.keys() | found.keys()):
            lines += _pair(shown.get(key), found.get(key), f"{where}.{key}" if where else key)
        return lines
    if isinstance(shown, list) and isinstance(found, list) and len(shown) == len(found):
        return [line for n, pair in enumerate(zip(shown, found, strict=True)) for line in _pair(*pair, f"{where}[{n}]")]
    return _pair(shown, found, where) if shown != found else []


def _pair(shown: Any, found: Any, where: str) -> list[str]:
    if type(shown) is type(found) and shown == found:
        return []
    deeper = isinstance(shown, dict) or (
        isinstance(shown, list) and isinstance(found, list) and len(shown) == len(found)
    )
    if type(shown) is type(found) and deeper:
        return differences(shown, found, where)
    return [f"{where}: the certificate says {_short(shown)}, found: {_short(found)}"]


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return f"{len(value)} items"
    text = repr(value) if isinstance(value, str) else "an object" if isinstance(value, dict) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
