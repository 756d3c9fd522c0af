"""`polchain demo`: an honest run registered, anchored and verified; three lies refused; a thief's copy ruled on.

It runs the commands that it shows. A chain in this process stands in for a public network.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polchain.cli.stage import command, heading, say, tell
from polchain.errors import MissingFileError, UnavailableError, UsageError

if TYPE_CHECKING:
    from polchain.anchors.embedded import EmbeddedChain

__all__ = ["register"]

BLOCK_SECONDS = 0.2
SCRIPT = "quickstart.py"
# eth-tester's second account, which has money too.
SECOND_ACCOUNT = (2).to_bytes(32, "big")


def register(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command("demo")(demo)


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where to put everything")] = Path("polchain-demo"),
) -> None:
    """train, anchor, verify; three lies fail and a thief loses. takes one to two minutes."""
    if folder.exists() and any(folder.iterdir()):
        taken, folder = folder, _next_free(folder)
        say(f"There is something in {taken}/ already: this goes to {folder}/.")
    begun = time.monotonic()
    play = _Demo(folder, _examples())
    play.run()
    say(f"\nEverything is in {folder}/. It took {time.monotonic() - begun:.0f} s.")
    say(f"The certificate of the ruling, for a browser: {play.ruling}")


class _Demo:
    """The acts, in order. Alice owns a model; Mallory wants to."""

    def __init__(self, folder: Path, examples: Path) -> None:
        self.folder = folder
        self.script = examples / SCRIPT
        self.data = examples / "data"
        self.ruling = folder / "ruling.html"

    def run(self) -> None:
        """Everything."""
        from polchain.anchors.embedded import EmbeddedChain

        with EmbeddedChain() as chain:
            self.registered(chain)
            self.honest(chain)
            heading("Lie 1: one bit of one checkpoint is changed")
            self.changed_byte()
            heading("Lie 2: a re-signed log whose last checkpoint is Alice's model")
            self.stolen_checkpoint()
            heading("Lie 3: Alice's model pulled in by a planted loss")
            self.planted_loss()
            tell(
                "The replay of lie 3 is exact: that program does give that model. Replay proves that a program ran; "
                "only the program's text makes it learning. So a recipe must be vouched for; its text stands above."
            )
            heading("The dispute: two claims to one model")
            self.dispute(chain)

    def registered(self, chain: EmbeddedChain) -> None:
        from polchain.anchors.beacon import DISTANCE

        alice = self.folder / "alice"
        heading("Alice registers a training before it begins")
        tell(
            "Program, data and key are signed and published; her account and her key sign each other. A chain in this "
            "process stands in for a public one: it proves nothing to a stranger, and the verdict below says so.",
            gap=False,
        )
        command("keygen", "--no-passphrase", "--key-file", alice / "key")
        _write_account(alice, chain.account[1])
        command(
            *("init", alice / "run", "--recipe", self.script, "--key-file", alice / "key", "--data", self.data),
            *("--anchor", "--network", "embedded", "--rpc", chain.address),
            *("--keystore", alice / "account.json", "--keystore-passphrase-file", alice / "passphrase"),
        )
        chain.mine(DISTANCE)
        tell(
            f"{DISTANCE} blocks are mined. The last one's hash gives the seed: initial weights, order, dropout. "
            "On a public network this takes half an hour, and nobody can know the seed before."
        )

    def honest(self, chain: EmbeddedChain) -> None:
        alice = self.folder / "alice"
        heading("She trains a small network on real digits, and records it")
        tell("Every 10 steps the full training state is hashed into a Merkle log that her key signs.", gap=False)
        with _mining(chain):
            command("train", alice / "run", "--wait-beacon")
            command("anchor", alice / "run", "--keystore-passphrase-file", alice / "passphrase", "--wait")
        command("export", alice / "run", alice / "claim")
        heading("Bob checks the claim")
        tell(
            "He has Alice's public key from Alice, recipe and data of his own, and a node. The log is checked, steps "
            "are drawn, and the segments that hold them are trained again in fresh processes.",
            gap=False,
        )
        self.verify("alice", self.script, expect=0, more=("--network", "embedded", "--rpc", chain.address))

    def changed_byte(self) -> None:
        from polchain.cli.lies import change_one_byte

        claim = self.folder / "lies" / "changed-byte"
        claim.parent.mkdir(parents=True, exist_ok=True)
        name = change_one_byte(self.folder / "alice" / "claim", claim)
        tell(f"A copy of the claim, with one bit flipped in the middle of {name}", gap=False)
        self.verify("alice", self.script, claim=claim, expect=1)

    def stolen_checkpoint(self) -> None:
        from polchain.cli.lies import last_state, swap_last_checkpoint
        from polchain.storage.keyfile import PassphraseSource, read_key

        mallory = self.folder / "mallory"
        tell(
            "Mallory trains a model of his own, honestly; then he puts Alice's weights into the last "
            "checkpoint, and signs the log again.",
            gap=False,
        )
        command("keygen", "--no-passphrase", "--key-file", mallory / "key")
        self.train("mallory", self.script)
        stolen = last_state(self.folder / "alice" / "claim")
        swap_last_checkpoint(mallory / "run", stolen, read_key(mallory / "key", PassphraseSource()), mallory / "forged")
        tell(
            f"That log is {mallory / 'forged'}: polchain.cli.lies.swap_last_checkpoint wrote it, and signed it with "
            "Mallory's key. It exports as any run does."
        )
        command("export", mallory / "forged", mallory / "claim")
        tell("Bob is told that Mallory's key is the owner's. Hashes and signatures hold; the last segment does not.")
        self.verify("mallory", self.script, expect=1)

    def planted_loss(self) -> None:
        from polchain.cli.lies import last_state, plant_loss

        planted = self.folder / "mallory" / "planted.py"
        alices = last_state(self.folder / "alice" / "claim")
        plant_loss(self.script, alices, planted)
        tell(
            f"Mallory writes a recipe whose loss is the distance to Alice's weights ({planted}), "
            "and records it honestly.",
            gap=False,
        )
        self.train("mallory", planted, run="planted")
        command("export", self.folder / "mallory" / "planted", self.folder / "mallory" / "planted-claim")
        from polchain.training.distance import distance, norm

        gap = distance(last_state(self.folder / "mallory" / "planted-claim"), alices).l2 / norm(alices)
        tell(
            f"His last state is Alice's to within {gap:.1g} of its norm. Bob has not read the recipe, so nobody "
            "vouches for it; he runs it all the same, "
            + ("in the sandbox." if self.sandboxed() else "which takes a flag with an ugly name: here is no sandbox.")
        )
        self.verify("mallory", None, claim=self.folder / "mallory" / "planted-claim", expect=3)

    def dispute(self, chain: EmbeddedChain) -> None:
        from polchain.cli.lies import copy_log
        from polchain.storage.keyfile import PassphraseSource, read_key

        alice, mallory = self.folder / "alice", self.folder / "mallory"
        key = read_key(mallory / "key", PassphraseSource())
        copy_log(mallory / "run", alice / "claim", key, mallory / "copy")
        _write_account(mallory, SECOND_ACCOUNT)
        tell(
            "Mallory has stolen all that Alice has but her key: weights, every checkpoint, program, data. He writes "
            f"her whole log again as his own ({mallory / 'copy'}), signs it and has it dated. Hashes, signatures and "
            "dates hold: it looks as good as hers.",
            gap=False,
        )
        network = ("--network", "embedded", "--rpc", chain.address)
        with _mining(chain):
            command(
                *("anchor", mallory / "copy", *network, "--keystore", mallory / "account.json"),
                *("--keystore-passphrase-file", mallory / "passphrase", "--wait"),
            )
        command("export", mallory / "copy", mallory / "copy-claim")
        tell(
            "Both say that the model is theirs. Bob has both public keys, and asks who is right. A is Alice's claim, "
            "B is Mallory's; the order of the two decides nothing."
        )
        command(
            *("verify", "--claim", alice / "claim", "--claim", mallory / "copy-claim"),
            *("--key", alice / "key.pub", "--key", mallory / "key.pub"),
            *("--recipe", self.script, "--data", self.data, *network, "--report", self.ruling),
        )
        tell(
            "The weights that a training begins with come from its seed, and the seed from its owner's key. Alice's "
            "gives the weights that her log begins with. Mallory's gives others: his log cannot have begun where he "
            "says, and the rest of it is hers. Had he published first, he would have lost all the same. (The chain "
            "that dated both logs ends with this demo, so nobody can check these dates later; a public chain stays.)"
        )

    def train(self, who: str, script: Path, run: str = "run") -> None:
        home = self.folder / who
        command("train", home / run, "--recipe", script, "--key-file", home / "key", "--data", self.data)

    def sandboxed(self) -> bool:
        """Whether a recipe that nobody has read can be run here without harm."""
        from polchain.verifier.allowance import Allowance
        from polchain.verifier.sandbox import find_sandbox

        try:
            find_sandbox(self.data, [], Allowance())
        except UnavailableError:
            return False
        return True

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
        if recipe is not None:
            words += ["--recipe", recipe]
        elif not self.sandboxed():
            words += ["--unsafe-no-sandbox"]
        command(*words, "--data", self.data, *more, expect=expect)


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
