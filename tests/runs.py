"""Runs for tests, made without torch: a few states of a few bytes, signed like any others."""

from pathlib import Path

from polchain.core.binding import Binding
from polchain.core.digest import Digest, blake3
from polchain.core.entries import CheckpointEntry, Final, Start, Update, chain_base, extend_chain
from polchain.core.genesis import Configuration, DatasetRef, FileRef, Genesis, RecipeRef
from polchain.core.keys import PrivateKey
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import TensorRow
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.keyfile import write_key
from polchain.storage.ledger import Ledger

RECIPE = b"print('the recipe')\n"
STEPS = (0, 2, 4)


def make_key(path: Path) -> PrivateKey:
    """A new unencrypted key file."""
    key = PrivateKey.generate()
    write_key(path, key, None)
    return key


def make_state(step: int, *, kind: str = "weights") -> Snapshot:
    """A state of one tensor, another one for each step."""
    data = bytes([step % 256, 1, 2, 3]) * 4
    row = TensorRow(f"model/{kind}", "parameter", "F32", (2, 2), blake3(data))
    return Snapshot(Manifest.of([row]), {row.name: memoryview(data)})


def make_genesis(
    key: PrivateKey,
    *,
    steps: tuple[int, ...] = STEPS,
    foreign: bool = False,
    ethereum: Binding | None = None,
    beacon: int | None = None,
    salts: Digest | None = None,
) -> Genesis:
    """The genesis of a recipe that nobody could replay, or of a foreign run."""
    return Genesis(
        run_id=bytes(range(16)),
        key=key.public,
        ethereum=ethereum,
        beacon=beacon,
        recipe=None
        if foreign
        else RecipeRef(
            "train.py", False, ("--lr", "0.1"), (FileRef("train.py", len(RECIPE), blake3(RECIPE)),), ("numpy==2.0",)
        ),
        dataset=None if foreign else DatasetRef(8, Digest("sha256", bytes(32)), salts),
        configuration=None if foreign else Configuration(steps[-1] or 1, 2, ((0, 2),), "fp32", True),
    )


def make_run(
    folder: Path,
    key: PrivateKey,
    *,
    steps: tuple[int, ...] = STEPS,
    foreign: bool = False,
    salts: Digest | None = None,
) -> Path:
    """A finished run; of a recipe that nobody could replay, or foreign. With `salts` its data is private."""
    genesis = make_genesis(key, steps=steps, foreign=foreign, salts=salts)
    store = CheckpointStore(folder)
    with Ledger.create(folder, genesis, key) as ledger:
        if not foreign:
            (folder / "recipe").mkdir()
            (folder / "recipe" / "train.py").write_bytes(RECIPE)
            ledger.append(Start(ledger.root, "prover", bytes(32), {"threads": 2}))
            ledger.set_note("self-check", "2")
        chain, state = chain_base(genesis), make_state(0)
        for step in steps:
            state = make_state(step)
            chain = extend_chain(chain, store.put(state)).value
            entry = CheckpointEntry(
                ledger.root,
                step,
                state.manifest.roots(),
                Digest("sha256", chain),
                update=Update(0.5, 0.25) if step else None,
                loss=1.5 if step else None,
            )
            ledger.append(entry)
        if not foreign:
            ledger.append(Final(ledger.root, steps[-1], state.manifest.roots(), Digest("sha256", chain)))
    (folder / "polchain.toml").write_text("")
    return folder
