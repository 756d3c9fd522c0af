"""Certificates for the tests, made by the command line from real runs: of one claim, and of a ruling between two.

    owner     60 recorded steps; an authority stamped its head after 30 steps and its last one
    thief     the owner's states, signed anew under another key, and stamped later

They are made once a test session, whatever the number of test workers.
"""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from polchain.anchors.base import target_of
from polchain.anchors.receipts import FiledReceipt
from polchain.cli.app import main
from polchain.core.claim import ENTRIES, head_name, receipt_name, write_listing
from polchain.core.entries import leaf_data
from polchain.core.keys import PrivateKey
from polchain.core.merkle import leaf_hash, root
from polchain.core.note import TreeHead, origin_of, sign_head
from tests.anchors.authority import NOW, Root, Signer, receipt_of, sha256
from tests.claims import DATA, DIGITS, copy_of, entries_of, genesis_of, record_once
from tests.disputes import Lab
from tests.forgers.attacks import resigned_copy
from tests.forgers.forge import Workshop


@dataclass(frozen=True)
class Filed:
    """A certificate, and the words of the command line that made it but for `verify` and `--report`."""

    page: Path
    words: tuple[str, ...]
    code: int

    @property
    def text(self) -> str:
        return self.page.read_text()

    def check(self, page: Path | None = None, *more: object) -> int:
        """`polchain report --check`; returns its exit code."""
        return main(["report", "--check", str(page or self.page), *self.words, *map(str, more)])


@contextmanager
def warm() -> Iterator[None]:
    """Children that replay stay warm from one verification to the next."""
    lab: Any = Lab(None, Path())  # type: ignore[arg-type]
    lab.memory.verify_once = lab.memory._verify  # each verification is made anew
    with lab.open():
        yield


def file_certificates(factory: pytest.TempPathFactory) -> tuple[Filed, Filed]:
    """The certificate of the owner's claim, and that of the ruling between owner and thief."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "certificates"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "filed").exists():
            with warm():
                (folder / "filed").write_bytes(pickle.dumps(_file(factory, folder)))
        found: tuple[Filed, Filed] = pickle.loads((folder / "filed").read_bytes())
        return found


def _file(factory: pytest.TempPathFactory, folder: Path) -> tuple[Filed, Filed]:
    recorded = record_once(factory, "digits-sgd", DIGITS, ("--optimizer", "sgd"))
    authority = Root("root").issue("tsa")
    owner, thief = copy_of(recorded.claim, folder / "owner"), folder / "thief"
    shop = Workshop(recorded.claim)
    forgery = resigned_copy.forge(shop)
    shop.claim(thief, forgery.states, forgery.losses)
    for claim, key, size, hours in (
        (owner, recorded.key, 9, 12), (owner, recorded.key, 16, 10), (thief, shop.key, 16, 3),
    ):  # fmt: skip
        stamp(claim, key, size, authority, hours)
    recipe = genesis_of(entries_of(owner)).recipe
    assert recipe is not None
    words = [
        "--data", DATA, "--trust-recipe", recipe.program(), "--unsafe-no-sandbox", "--jobs", 1,
        "--tsa", str(authority.pin), "--key", recorded.key.public,
    ]  # fmt: skip
    one = _filed(folder / "verdict.html", [owner, *words])
    return one, _filed(folder / "ruling.html", ["--claim", owner, "--claim", thief, "--key", shop.key.public, *words])


def stamp(claim: Path, key: PrivateKey, size: int, authority: Signer, hours: int) -> None:
    """Have the head of the first entries stamped so many hours ago."""
    genesis = genesis_of(entries_of(claim))
    lines = (claim / ENTRIES).read_bytes().splitlines()[:size]
    head = TreeHead(origin_of(genesis.key, genesis.run_id), size, root([leaf_hash(leaf_data(line)) for line in lines]))
    note = sign_head(head, key)
    token = authority.token(sha256(target_of(head, note).note), 7, time=f"{NOW - timedelta(hours=hours):%Y%m%d%H%M%S}Z")
    filed = FiledReceipt(size, receipt_of(token, 7, [authority.der]))
    (claim / "anchors").mkdir(exist_ok=True)
    (claim / head_name(size)).write_bytes(note)
    (claim / receipt_name(size, "rfc3161-lab")).write_bytes(filed.encode())
    write_listing(claim)


def _filed(page: Path, words: list[object]) -> Filed:
    given = tuple(map(str, words))
    return Filed(page, given, main(["verify", "--report", str(page), *given]))


HOSTILE = "</script></pre><img src=x onerror=alert(1)>\"'&amp;{{ 7 * 7 }}\u202e\x1b[31m\u0301\u0301\u0301 \u05d0"
# Words that the page decides by, and numbers: no claim writes them as it likes.
FIXED = {
    "format",
    "kind",
    "name",
    "verdict",
    "outcome",
    "what",
    "made",
    "seed",
    "status",
    "finding",
    "counts_as",
    "ruling",
}


def hostile(value: Any, key: str = "") -> Any:
    """Facts of the same shape in which every text that somebody else may have written is hostile."""
    if isinstance(value, dict):
        return {name: item if name in FIXED else hostile(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    if not isinstance(value, str) or key == "sandbox":
        return value
    try:
        float(value or "nan")
    except ValueError:
        return f"{HOSTILE}{value}"
    return value
