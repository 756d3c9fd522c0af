"""What a liar does in the demo: claims that look right and are not. Real attacks are in tests/forgers/."""

from __future__ import annotations

import base64
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from polchain.core.claim import Claim, checkpoint_name
from polchain.core.entries import (
    CheckpointEntry,
    Final,
    Start,
    chain_base,
    encode_entry,
    extend_chain,
    leaf_data,
    parse_entry,
)
from polchain.core.keys import PrivateKey
from polchain.core.manifest import Snapshot
from polchain.core.merkle import leaf_hash
from polchain.core.rows import TensorRow
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.ledger import Ledger

__all__ = ["change_one_byte", "copy_log", "last_state", "plant_loss", "swap_last_checkpoint"]

HONEST_LOSS = "loss = F.cross_entropy(model(images), labels)"
HONEST_STEPS, PLANTED_STEPS = "steps=400", "steps=200"  # a pull is there sooner than what is learned
PLANTED_LOSS = "loss = sum((p - t).square().sum() for p, t in zip(model.parameters(), stolen(model), strict=True))"
PLANTED = """STOLEN = "{weights}"


def stolen(model: nn.Module) -> list[Tensor]:
    flat = torch.frombuffer(bytearray(base64.b64decode(STOLEN)), dtype=torch.float32)
    sizes = [parameter.numel() for parameter in model.parameters()]
    return [piece.view_as(p) for piece, p in zip(flat.split(sizes), model.parameters(), strict=True)]


"""


def change_one_byte(claim: Path, out: Path) -> str:
    """Copy a claim and flip one bit in the middle of its last checkpoint; returns the file's name."""
    shutil.copytree(claim, out)
    target = out / checkpoint_name(_last_entry(claim).state)
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    return f"checkpoints/{target.name}"


def last_state(claim: Path) -> Snapshot:
    """The last state that a claim discloses."""
    return CheckpointStore(claim).get(_last_entry(claim).state)


def swap_last_checkpoint(run: Path, stolen: Snapshot, key: PrivateKey, out: Path) -> None:
    """A new log like the one in `run`, but for its last checkpoint, whose weights are the stolen ones; signed again."""
    with Ledger(run) as ledger:
        entries = [parse_entry(data) for data in ledger.entries()]
        genesis = ledger.genesis
    start = next(entry for entry in entries if isinstance(entry, Start))
    states = [entry for entry in entries if isinstance(entry, CheckpointEntry)]
    shutil.copytree(run / "recipe", out / "recipe")
    theirs, ours = CheckpointStore(run), CheckpointStore(out)
    chain = chain_base(genesis)
    with Ledger.create(out, genesis, key) as ledger:
        ledger.append(replace(start, prev=ledger.root))
        for entry in states:
            snapshot = theirs.get(entry.state)
            if entry is states[-1]:
                snapshot = _with_model(snapshot, stolen)
                entry = _remeasured(entry, snapshot, theirs.get(states[-2].state))
            ours.put(snapshot)
            link = extend_chain(chain, entry.state)
            chain = link.value
            ledger.append(replace(entry, prev=ledger.root, chain=link))
        ledger.append(Final(ledger.root, entry.step, entry.roots, link))


def copy_log(run: Path, claim: Path, key: PrivateKey, out: Path) -> None:
    """A new log that begins as the one in `run` does, and goes on with every state of somebody's claim, as if the
    seed in it had given them; signed."""
    from polchain.training.randomness import BatchOrder, batch_digest, run_seed

    with Ledger(run) as ledger:
        genesis = replace(ledger.genesis, run_id=secrets.token_bytes(16))
        entries = [parse_entry(data) for data in ledger.entries()]
    start = next(entry for entry in entries if isinstance(entry, Start))
    assert genesis.dataset is not None
    assert genesis.configuration is not None
    seed = run_seed(start.value, leaf_hash(leaf_data(encode_entry(genesis))), start.source)
    order = BatchOrder(seed, genesis.dataset.samples, genesis.configuration.batch_size)
    shutil.copytree(run / "recipe", out / "recipe")
    theirs, ours = CheckpointStore(claim), CheckpointStore(out)
    chain, before = chain_base(genesis), 0
    states = _states(claim)
    with Ledger.create(out, genesis, key) as ledger:
        ledger.append(replace(start, prev=ledger.root))
        for entry in states:
            ours.put(theirs.get(entry.state))
            link = extend_chain(chain, entry.state)
            batches = batch_digest(list(order.batches(before, entry.step)))
            chain, before = link.value, entry.step
            ledger.append(replace(entry, prev=ledger.root, chain=link, batches=batches))
        ledger.append(Final(ledger.root, before, states[-1].roots, link))


def plant_loss(script: Path, stolen: Snapshot, out: Path) -> None:
    """The honest script with another loss: the distance to the stolen weights, which its text carries."""
    # In the order in which the script's nn.Sequential has them.
    names = sorted(row.name for row in stolen.manifest.tensors() if row.name.startswith("model/"))
    ordered = sorted(names, key=lambda name: (int(name.split("/")[1].split(".")[0]), name.endswith("bias")))
    weights = base64.b64encode(b"".join(bytes(stolen.buffers[name]) for name in ordered)).decode()
    text = (
        script.read_text()
        .replace(HONEST_LOSS, PLANTED_LOSS)
        .replace(HONEST_STEPS, PLANTED_STEPS)
        .replace("import numpy", "import base64\n\nimport numpy", 1)
    )
    assert PLANTED_LOSS in text, "the script's loss is not the one to replace"
    head, line, rest = text.partition("with polchain.record")
    out.write_text(head + PLANTED.format(weights=weights) + line + rest)


def _last_entry(claim: Path) -> CheckpointEntry:
    return _states(claim)[-1]


def _states(claim: Path) -> list[CheckpointEntry]:
    entries = [parse_entry(data) for data in Claim.read(claim).entries()]
    return [entry for entry in entries if isinstance(entry, CheckpointEntry)]


def _with_model(snapshot: Snapshot, stolen: Snapshot) -> Snapshot:
    rows = [
        stolen.manifest[row.name] if row.name.startswith("model/") and isinstance(row, TensorRow) else row
        for row in snapshot.manifest.rows
    ]
    buffers = {
        name: stolen.buffers[name] if name.startswith("model/") else data for name, data in snapshot.buffers.items()
    }
    return Snapshot(type(snapshot.manifest).of(rows), buffers)


def _remeasured(entry: CheckpointEntry, after: Snapshot, before: Snapshot) -> CheckpointEntry:
    from polchain.training.distance import update_size

    return replace(entry, roots=after.manifest.roots(), update=update_size(before, after))
