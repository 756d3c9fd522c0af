"""`polchain demo`: an honest run registered, anchored and verified, then three lies refused.

It runs the commands that it shows. A chain in this process stands in for a public network.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.cli import output
from polchain.errors import MissingFileError, PolchainError, UsageError

if TYPE_CHECKING:
    from polchain.anchors.embedded import EmbeddedChain

__all__ = ["register"]

BLOCK_SECONDS = 0.2
SCRIPT = "quickstart.py"


def register(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where to put everything")] = Path("polchain-demo"),
) -> None:
    """register, train, anchor, verify; then watch three lies fail. takes one to two minutes."""
    if folder.exists() and any(folder.iterdir()):
        taken, folder = folder, _next_free(folder)
        _say(f"There is something in {taken}/ already: this goes to {folder}/.")
    begun = time.monotonic()
    _Demo(folder, _examples()).run()
    _say(f"\nEverything is in {folder}/. It took {time.monotonic() - begun:.0f} s.")


class _Demo:
    """The acts, in order. Alice owns a model; Mallory wants to."""

    def __init__(self, folder: Path, examples: Path) -> None:
        self.folder = folder
        self.script = examples / SCRIPT
        self.data = examples / "data"

    def run(self) -> None:
        """Everything."""
        from polchain.anchors.embedded import EmbeddedChain

        with EmbeddedChain() as chain:
            self.registered(chain)
            self.honest(chain)
        _heading("Lie 1: one bit of one checkpoint is changed")
        self.changed_byte()
        _heading("Lie 2: a re-signed log whose last checkpoint is Alice's model")
        self.stolen_checkpoint()
        _heading("Lie 3: Alice's model pulled in by a planted loss")
        self.planted_loss()
        _say(
            "\nThe replay of lie 3 is exact: that program does give that model. Replay proves that a program ran;\n"
            "only the program's text makes it learning. So a recipe must be vouched for; its text stands above."
        )

    def registered(self, chain: EmbeddedChain) -> None:
        from polchain.anchors.beacon import DISTANCE

        alice = self.folder / "alice"
        _heading("Alice registers a training before it begins")
        _say(
            "Program, data and key are signed and published; her account and her key sign each other. A chain in this\n"
            "process stands in for a public one: it proves nothing to a stranger, and the verdict below says so."
        )
        self.command("keygen", "--no-passphrase", "--key-file", alice / "key")
        _write_account(alice, chain.account[1])
        self.command(
            *("init", alice / "run", "--recipe", self.script, "--key-file", alice / "key", "--data", self.data),
            *("--anchor", "--network", "embedded", "--rpc", chain.address),
            *("--keystore", alice / "account.json", "--keystore-passphrase-file", alice / "passphrase"),
        )
        chain.mine(DISTANCE)
        _say(
            f"\n{DISTANCE} blocks are mined. The last one's hash gives the seed: initial weights, order, dropout.\n"
            "On a public network this takes half an hour, and nobody can know the seed before."
        )

    def honest(self, chain: EmbeddedChain) -> None:
        alice = self.folder / "alice"
        _heading("She trains a small network on real digits, and records it")
        _say("Every 10 steps the full training state is hashed into a Merkle log that her key signs.")
        with _mining(chain):
            self.command("train", alice / "run", "--wait-beacon")
            self.command("anchor", alice / "run", "--keystore-passphrase-file", alice / "passphrase", "--wait")
        self.command("export", alice / "run", alice / "claim")
        _heading("Bob checks the claim")
        _say(
            "He has Alice's public key from Alice, recipe and data of his own, and a node. The log is checked, steps\n"
            "are drawn, and the segments that hold them are trained again in fresh processes."
        )
        self.verify("alice", self.script, expect=0, more=("--network", "embedded", "--rpc", chain.address))

    def changed_byte(self) -> None:
        from polchain.cli.lies import change_one_byte

        claim = self.folder / "lies" / "changed-byte"
        claim.parent.mkdir(parents=True, exist_ok=True)
        name = change_one_byte(self.folder / "alice" / "claim", claim)
        _say(f"A copy of the claim, with one bit flipped in the middle of\n{name}")
        self.verify("alice", self.script, claim=claim, expect=1)

    def stolen_checkpoint(self) -> None:
        from polchain.cli.lies import last_state, swap_last_checkpoint
        from polchain.storage.keyfile import PassphraseSource, read_key

        mallory = self.folder / "mallory"
        _say(
            "Mallory trains a model of his own, honestly; then he puts Alice's weights into the last\n"
            "checkpoint, and signs the log again."
        )
        self.command("keygen", "--no-passphrase", "--key-file", mallory / "key")
        self.train("mallory", self.script)
        stolen = last_state(self.folder / "alice" / "claim")
        swap_last_checkpoint(mallory / "run", stolen, read_key(mallory / "key", PassphraseSource()), mallory / "forged")
        _say(
            f"\nThat log is {mallory / 'forged'}: polchain.cli.lies.swap_last_checkpoint wrote it, and signed it with\n"
            "Mallory's key. It exports as any run does."
        )
        self.command("export", mallory / "forged", mallory / "claim")
        _say("\nBob is told that Mallory's key is the owner's. Hashes and signatures hold; the last segment does not.")
        self.verify("mallory", self.script, expect=1)

    def planted_loss(self) -> None:
        from polchain.cli.lies import last_state, plant_loss

        planted = self.folder / "mallory" / "planted.py"
        alices = last_state(self.folder / "alice" / "claim")
        plant_loss(self.script, alices, planted)
        _say(
            f"Mallory writes a recipe whose loss is the distance to Alice's weights ({planted}),\n"
            "and records it honestly."
        )
        self.train("mallory", planted, run="planted")
        self.command("export", self.folder / "mallory" / "planted", self.folder / "mallory" / "planted-claim")
        from polchain.training.distance import distance, norm

        gap = distance(last_state(self.folder / "mallory" / "planted-claim"), alices).l2 / norm(alices)
        _say(
            f"\nHis last state is Alice's to within {gap:.1g} of its norm. Bob has not read the recipe, so nobody\n"
            "vouches for it; he runs it all the same, which takes a flag with an ugly name."
        )
        self.verify("mallory", None, claim=self.folder / "mallory" / "planted-claim", expect=3)

    def train(self, who: str, script: Path, run: str = "run") -> None:
        home = self.folder / who
        self.command("train", home / run, "--recipe", script, "--key-file", home / "key", "--data", self.data)

    def verify(
        self,
        who: str,
        recipe: Path | None,
        *,
        expect: int,
        claim: Path | None = None,
        more: tuple[str, ...] = (),
    ) -> None:
        words: list[object] = ["verify", claim or self.folder / who / "claim", "--key", self.folder / who / "key.pub"]
        words += ["--recipe", recipe] if recipe is not None else ["--unsafe-no-sandbox"]
        self.command(*words, "--data", self.data, *more, expect=expect)

    def command(self, *words: object, expect: int = 0) -> None:
        """Show a command, run it, and stop the demo where it exits otherwise than it should."""
        shown = " ".join(shlex.quote(_short(word)) for word in words)
        _say(f"\n$ polchain {shown}")
        done = subprocess.run(
            [sys.executable, "-m", "polchain.cli.app", *map(str, words)], check=False, stdin=subprocess.DEVNULL
        )
        if expect:
            _say(f"(exit {done.returncode})")
        if done.returncode != expect:
            raise PolchainError(f"the demo expected exit {expect} here, and got {done.returncode}")


@contextmanager
def _mining(chain: EmbeddedChain) -> Iterator[None]:
    """A block now and then, as chains do."""
    over = threading.Event()

    def mine() -> None:
        while not over.wait(BLOCK_SECONDS):
            chain.mine()

    miner = threading.Thread(target=mine, daemon=True)
    miner.start()
    try:
        yield
    finally:
        over.set()
        miner.join()


def _write_account(folder: Path, secret: bytes) -> None:
    """An account as wallets keep it: an encrypted keystore, and a passphrase that its owner alone can read."""
    from eth_account import Account

    passphrase = "the demo's"
    # Few iterations: everybody knows this key.
    keystore = Account.encrypt(secret, passphrase, kdf="pbkdf2", iterations=1000)
    (folder / "account.json").write_text(json.dumps(keystore))
    descriptor = os.open(folder / "passphrase", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(passphrase)


def _short(word: object) -> str:
    """A path below the working directory is shown from there."""
    if isinstance(word, Path) and word.is_absolute() and word.is_relative_to(Path.cwd()):
        return os.path.relpath(word)
    return str(word)


def _heading(text: str) -> None:
    _say(f"\n{output.styled(text, 'bold')}\n{'-' * len(text)}")


def _say(text: str) -> None:
    output.answer({}, text, as_json=False)


def _next_free(folder: Path) -> Path:
    for number in range(2, 1000):
        candidate = folder.with_name(f"{folder.name}-{number}")
        if not candidate.exists():
            return candidate
    raise UsageError(f"{folder} is taken", hint="name another folder")


def _examples() -> Path:
    """The examples: inside an installed package, or beside it in a checkout."""
    package = Path(str(resources.files("polchain")))
    for candidate in (package / "_examples", package.parent / "examples"):
        if (candidate / SCRIPT).is_file():
            return candidate
    raise MissingFileError(
        "the demo's recipe and data are not installed", hint="run it from a checkout, or from the wheel"
    )
