"""How long a ruling between two claims takes, and how much of it is replay.

    python -m benchmarks.ruling [--steps 960] [--out FILE]

Two honest runs of examples/resnet_digits.py (ResNet-20, batch 64) by two keys, anchored on a chain in this process.
960 steps with a checkpoint every ten are logs of 100 entries. Two owners cost an arbiter most: of both claims every
segment is replayed, since each is over 1 % of the steps, while a thief's is refuted by its first false replay. What is
timed is the whole command, as an arbiter types it, under the default policy:

    polchain verify --claim A --claim B --key ... --recipe ... --data ... --network ... --rpc ...

`replay` is what the segments took, from the opening state to the comparison; `integrity` is a command of its own for
each claim, `verify --integrity-only`. Writes benchmarks/results/ruling.json and its sentence in docs/disputes.md, and
ends with exit 1 over 240 seconds. With --out, the file alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polchain.anchors.beacon import DISTANCE
from polchain.anchors.embedded import EmbeddedChain

ROOT = Path(__file__).parents[1]
RECIPE, DATA = ROOT / "examples" / "resnet_digits.py", ROOT / "examples" / "data"
RESULTS = Path(__file__).parent / "results" / "ruling.json"
PAGE, MARKS = ROOT / "docs" / "disputes.md", ("<!-- benchmarks.ruling -->\n", "<!-- end -->\n")
STEPS = 960
LIMIT = 240.0
OWNERS = ("first", "second")
PASSPHRASE = "the benchmark's"


def polchain(verb: str, *words: object, code: int = 0) -> dict[str, Any]:
    """Run a command; returns its JSON, and stops where it exits otherwise."""
    done = subprocess.run(
        [sys.executable, "-m", "polchain.cli.app", verb, "--json", *map(str, words)],
        check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode != code:
        raise SystemExit(f"polchain {verb} ended with {done.returncode}: {done.stdout[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return found


def record(folder: Path, number: int, steps: int, chain: EmbeddedChain) -> Path:
    """One owner's claim: registered, trained, anchored, exported."""
    home = folder / OWNERS[number]
    home.mkdir()
    # eth-tester's accounts have the keys 1, 2, ...
    account(home, (number + 1).to_bytes(32, "big"))
    polchain("keygen", "--no-passphrase", "--key-file", home / "key")
    paid = ("--keystore-passphrase-file", home / "passphrase")
    polchain(
        "init",
        *(home / "run", "--recipe", RECIPE, "--key-file", home / "key", "--data", DATA),
        *("--anchor", "--network", "embedded", "--rpc", chain.address, "--keystore", home / "account.json", *paid),
        *("--", "--steps", steps),
    )
    chain.mine(DISTANCE)
    with mining(chain):
        polchain("train", home / "run", "--wait-beacon")
        polchain("anchor", home / "run", "--wait", *paid)
    polchain("export", home / "run", home / "claim")
    return home / "claim"


def measure(claims: list[Path], steps: int, chain: EmbeddedChain) -> dict[str, Any]:
    """Rule between the claims, and say what took how long."""
    keys = [word for claim in claims for word in ("--key", claim.parent / "key.pub")]
    dated = ("--network", "embedded", "--rpc", chain.address)
    integrity = []
    for claim in claims:
        begun = time.monotonic()
        polchain("verify", claim, *keys, *dated, "--integrity-only")
        integrity.append(time.monotonic() - begun)
    begun = time.monotonic()
    ruling = polchain(
        "verify",
        *("--claim", claims[0], "--claim", claims[1], *keys, *dated),
        *("--recipe", RECIPE, "--recipe-args", f"--steps {steps}", "--data", DATA),
    )
    seconds = time.monotonic() - begun
    verdicts = [verdict for claim in ruling["claims"] for verdict in claim["verdicts"]]
    replays = [item for verdict in verdicts for item in verdict["replays"] if not item["earlier"]]
    replay = sum(float(item["seconds"]) for item in replays)
    return {
        "entries": [verdict["entries"] for verdict in verdicts],
        "steps": steps,
        "ruling": ruling["ruling"],
        "verdicts": [verdict["verdict"] for verdict in verdicts],
        "replays": len(replays),
        "seconds": round(seconds, 1),
        "replay seconds": round(replay, 1),
        "replay share": round(replay / seconds, 3),
        "integrity seconds": [round(one, 1) for one in integrity],
        "limit": LIMIT,
        "measured on": {"cores": os.cpu_count(), "load before": LOAD, "python": platform.python_version()},
    }


def table(found: dict[str, Any]) -> str:
    """The figures, for people."""
    both = " and ".join(f"{one:.1f}" for one in found["integrity seconds"])
    rows = [
        ("entries", " and ".join(map(str, found["entries"]))),
        ("ruling", f"{found['ruling']}: {', '.join(found['verdicts'])}"),
        ("replays", str(found["replays"])),
        ("the ruling took", f"{found['seconds']:.1f} s, of at most {found['limit']:.0f}"),
        ("of that replay", f"{found['replay seconds']:.1f} s, {100 * found['replay share']:.0f} %"),
        ("integrity alone", f"{both} s, each a command"),
    ]
    return "\n".join(f"{name:<18}{value}" for name, value in rows)


def said(found: dict[str, Any]) -> str:
    """The figures, for the page."""
    entries, integrity = found["entries"], found["integrity seconds"]
    cores, share = found["measured on"]["cores"], 100 * found["replay share"]
    both = f"{integrity[0]:.1f} and {integrity[1]:.1f} s"
    return (
        "Measured by `python -m benchmarks.ruling` ([ruling.json](../benchmarks/results/ruling.json)): two honest "
        f"claims of a ResNet-20, {entries[0]} and {entries[1]} entries, a checkpoint every ten steps, under the "
        f"default policy on {cores} cores: {found['seconds']:.0f} s, of which {found['replays']} replays took "
        f"{share:.0f} %. Integrity alone takes {both}, each as a command of its own. Two owners cost an arbiter most: "
        "of a thief's claim nothing is replayed beyond its first false replay.\n"
    )


def write_page(found: dict[str, Any]) -> None:
    """Put that sentence in its place."""
    head, mark, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text(head + mark + said(found) + MARKS[1] + rest.partition(MARKS[1])[2])


def account(home: Path, secret: bytes) -> None:
    """An encrypted keystore, and its passphrase."""
    from eth_account import Account

    (home / "account.json").write_text(json.dumps(Account.encrypt(secret, PASSPHRASE, kdf="pbkdf2", iterations=1000)))
    (home / "passphrase").touch(mode=0o600)
    (home / "passphrase").write_text(PASSPHRASE)


@contextmanager
def mining(chain: EmbeddedChain) -> Iterator[None]:
    """A block now and then."""
    over = threading.Event()

    def mine() -> None:
        while not over.wait(1.0):
            chain.mine()

    miner = threading.Thread(target=mine, daemon=True)
    miner.start()
    try:
        yield
    finally:
        over.set()
        miner.join()


LOAD = round(os.getloadavg()[0], 2)


def main() -> int:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run; ten to a segment")
    parser.add_argument("--out", type=Path, help="write here, and leave the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedChain() as chain:
        claims = [record(Path(folder), number, options.steps, chain) for number in range(len(OWNERS))]
        found = measure(claims, options.steps, chain)
    print(table(found))
    (options.out or RESULTS).write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    if options.out is None:
        write_page(found)
    return 0 if found["seconds"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
