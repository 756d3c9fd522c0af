"""How a certificate is repeated: the commands, what the verifier demanded, and the digests of what it was about."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["commands", "demands", "digests", "percent"]

Facts = Mapping[str, Any]


def percent(text: str) -> str:
    """A share, a decimal string, in percent."""
    value = 100 * float(text or "nan")
    return f"{value:.3g} %" if math.isfinite(value) else "unknown"


def commands(facts: Facts) -> list[str]:
    """The command that repeats it, and the one that checks the page; words in capitals are the reader's own."""
    asked, policy, made = facts["asked"], facts["policy"], facts["made"]
    several = facts["kind"] == "ruling"
    files = [f"./{name}" if name.startswith("-") else name for name in made["claims"]]
    words: list[str] = [word for file in files for word in (("--claim", file) if several else (file,))]
    if made["model"]:
        words += ["--model", made["model"]]
    if asked["task"]:
        words += ["--task", "TASK"]
    for key in policy["keys"]:
        words += ["--key", key]
    for digest in policy["recipes"] or _vouched(facts):
        words += ["--trust-recipe", digest]
    words += ["--data", "FOLDER", "--fraction", policy["fraction"], "--confidence", policy["confidence"]]
    for name in policy["networks"]:
        words += ["--network", name, "--rpc", "ADDRESS"]
    for _ in policy["authorities"]:
        words += ["--tsa", "FILE"]
    for _ in policy["calibrations"]:
        words += ["--calibration", "FILE"]
    words += ["--budget", policy["budget"]] if policy["budget"] else []
    words += ["--accept-consistent"] if policy["accept_consistent"] else []
    words += ["--full"] if asked["full"] else []
    words += ["--threads", str(asked["threads"])] if asked["threads"] else []
    checked = ["polchain", "report", "--check", "PAGE", *words]
    if asked["opening"]:
        words += ["--opening", "FILE", "--challenge", "FILE"]
        checked += ["--opening", "FILE", "--challenge", "FILE"]
    elif asked["seed"]:
        words += ["--seed", asked["seed"]]
    return [shlex.join(["polchain", "verify", *words]), shlex.join(checked)]


def _vouched(facts: Facts) -> list[str]:
    """The programs that the verdicts call vouched: by a copy of the verifier's own."""
    result = facts["result"]
    verdicts = [result] if facts["kind"] == "verdict" else [v for one in result["claims"] for v in one["verdicts"]]
    return sorted({one["recipe"] for one in verdicts if one["recipe_vouched"] and "recipe" in one})


def demands(facts: Facts) -> list[tuple[str, str]]:
    policy = facts["policy"]
    rows = [
        ("pinned keys", ", ".join(policy["keys"]) or "none"),
        ("vouched recipes", ", ".join(policy["recipes"]) or "none by digest"),
        ("a forged share to be caught", f"{percent(policy['fraction'])} of the steps"),
        ("with a probability of", percent(policy["confidence"])),
        ("largest updates always replayed", str(policy["top_updates"])),
        ("networks whose time is believed", ", ".join(policy["networks"]) or "none by name"),
        ("authorities whose time is believed", ", ".join(policy["authorities"]) or "none"),
        ("calibrations", ", ".join(policy["calibrations"]) or "none: only exact replay counts"),
    ]
    if facts["kind"] == "ruling":
        rows.append(("one model is another within", f"{policy['distance']} of each tensor"))
        rows.append(("public models of the policy", str(policy["bases"])))
    if policy["budget"]:
        rows.append(("replays may cost", f"{percent(policy['budget'])} of the steps"))
    if policy["max_swap_escape"]:
        rows.append(("a swap may escape with probability", policy["max_swap_escape"]))
    return rows


def digests(facts: Facts) -> Iterator[tuple[str, str]]:
    ruling = facts["kind"] == "ruling"
    asked, result = facts["asked"], facts["result"]
    if asked["seed"]:
        yield "seed of the draw", asked["seed"]
    if asked["model"]:
        yield "weights in dispute", asked["model"]
    if asked["task"]:
        yield "task", asked["task"]
    for number, claim in enumerate(facts["claims"]):
        who = f"{claim['name']}: " if ruling else ""
        if not claim["intact"]:
            continue
        verdicts = result["claims"][number]["verdicts"] if ruling else [result]
        yield f"{who}root of the head of {claim['head']['size']:,} entries", claim["head"]["root"]
        yield f"{who}genesis (leaf)", claim["genesis"]
        if claim["recipe"]:
            yield f"{who}recipe", claim["recipe"]["program"]
        if "dataset" in claim:
            yield f"{who}data", claim["dataset"]["root"]
        for verdict in verdicts:
            if "last_state" in verdict:
                yield f"{who}state at step {verdict['steps']:,}", verdict["last_state"]
        for key in ("task", "parent"):
            if key in claim:
                yield f"{who}{key}", claim[key]
        imports = claim["recipe"].get("imports", [])
        if imports:
            yield f"{who}versions, as the claim says", ", ".join(imports)
