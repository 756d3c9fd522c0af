"""Real claims for the tests of verifier and forgers, and what a forger needs to write his own.

A claim is recorded once a test session, by a real process, whatever the number of test workers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.core.claim import ENTRIES, HEAD, Claim, write_listing
from polchain.core.digest import Digest
from polchain.core.entries import (
    CheckpointEntry,
    Entry,
    Final,
    chain_base,
    encode_entry,
    extend_chain,
    leaf_data,
    parse_entry,
)
from polchain.core.genesis import Genesis
from polchain.core.keys import PrivateKey
from polchain.core.merkle import Frontier, leaf_hash
from polchain.core.note import TreeHead, origin_of, sign_head
from polchain.prover.export import export
from polchain.storage.keyfile import PassphraseSource, read_key, write_key
from tests.recording import recorder

if TYPE_CHECKING:
    import pytest

DATA = Path(__file__).parents[1] / "examples" / "data"
SCRIPTS = Path(__file__).parent / "scripts"
DIGITS = SCRIPTS / "digits.py"


@dataclass(frozen=True)
class Recorded:
    """A run that a real process recorded, and the claim exported from it."""

    claim: Path
    key: PrivateKey
    script: Path
    arguments: tuple[str, ...]


def record_once(
    factory: pytest.TempPathFactory,
    name: str,
    script: Path | str,
    arguments: Sequence[str] = (),
    threads: int = 1,
    beside: Sequence[Path] = (),
    refused: str = "",
) -> Recorded:
    """Record a script (a file, or its text; `beside` it lie others) and export its claim, once for all test workers.

    With `refused`, the recording is to end in an error that says so; what it had signed by then is exported.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"recorded-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copy = folder / (script.name if isinstance(script, Path) else f"{name}.py")
        if not (folder / "done").exists():
            copy.write_text(script.read_text() if isinstance(script, Path) else script)
            for other in beside:
                shutil.copy(other, folder)
            _record(folder, copy, arguments, threads, refused)
            (folder / "done").touch()
    return Recorded(folder / "claim", read_key(folder / "key", PassphraseSource()), copy, tuple(arguments))


def record(folder: Path, script: Path, arguments: Sequence[str] = ()) -> Recorded:
    """Record a script in a folder of its own, and export its claim."""
    folder.mkdir(exist_ok=True)
    copy = Path(shutil.copy(script, folder))
    _record(folder, copy, arguments, 1, "")
    return Recorded(folder / "claim", read_key(folder / "key", PassphraseSource()), copy, tuple(arguments))


def _record(folder: Path, script: Path, arguments: Sequence[str], threads: int, refused: str) -> None:
    write_key(folder / "key", PrivateKey.generate(), None)
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(folder / "key"), "POLCHAIN_DATA": str(DATA)}
    done = recorder(threads).run(script, arguments, folder, environment)
    assert (refused in done.output) if refused else (done.status == 0), done.output
    export(folder / "run", folder / "claim")


def copy_of(claim: Path, out: Path) -> Path:
    """A copy to tamper with."""
    shutil.copytree(claim, out)
    return out


def entries_of(claim: Path) -> list[Entry]:
    """A claim's entries, parsed; nothing is checked."""
    return [parse_entry(line) for line in (claim / ENTRIES).read_bytes().splitlines()]


def write_log(claim: Path, entries: Sequence[Entry], key: PrivateKey, *, prev: bool = True, chain: bool = True) -> None:
    """Write entries and a head signed over them, and list the claim's files anew.

    The entries are linked as an honest log's are: each `prev`, and each `chain` from the states, is made right here.
    """
    claim.mkdir(exist_ok=True)
    (claim / "heads").mkdir(exist_ok=True)
    frontier = Frontier()
    lines = []
    link = b""
    for entry in entries:
        if prev and not isinstance(entry, Genesis):
            entry = replace(entry, prev=Digest("sha256", frontier.root()))
        if isinstance(entry, Genesis):
            link = chain_base(entry)
        if chain and isinstance(entry, CheckpointEntry):
            entry = replace(entry, chain=extend_chain(link, entry.state))
            link = entry.chain.value
        if chain and isinstance(entry, Final):
            entry = replace(entry, chain=Digest("sha256", link))
        lines.append(encode_entry(entry))
        frontier.append(leaf_hash(leaf_data(lines[-1])))
    genesis = entries[0]
    assert isinstance(genesis, Genesis)
    head = TreeHead(origin_of(genesis.key, genesis.run_id), frontier.size, frontier.root())
    (claim / ENTRIES).write_bytes(b"".join(line + b"\n" for line in lines))
    (claim / HEAD).write_bytes(sign_head(head, key))
    write_listing(claim)


def genesis_of(entries: Iterable[Entry]) -> Genesis:
    """The genesis of a log."""
    first = next(iter(entries))
    assert isinstance(first, Genesis)
    return first


def checkpoints_of(claim: Path) -> list[CheckpointEntry]:
    """The checkpoint entries of a claim."""
    return [entry for entry in entries_of(claim) if isinstance(entry, CheckpointEntry)]


def recipe_of(claim: Path) -> dict[str, bytes]:
    """The recipe's files of a claim."""
    return Claim.read(claim).recipe()
