"""Log entries.

An entry is canonical JSON of at most 65,535 bytes. Its leaf data is the tag `entry` and those bytes. Every entry
carries `prev`, the root of the tree before it, so the entries are a chain as well as a tree:

    genesis     who (run id, keys), what (recipe, dataset, configuration); foreign runs: neither recipe nor dataset
    start       where the seed comes from, and what the machine was
    checkpoint  a step: a root per state group, `chain`, the batches since the last entry, update size, mean loss
    final       the last state again, and digests of exported weight files
    rotate      a new key;  revoke  a key that no longer counts  (parsed; evaluated once heads have times)

Checkpoint entries hold functions of recipe, data and seed alone: whoever executes the run again exactly signs the
same bytes. Clocks live elsewhere.

    chain(0) = H(tag chain, base, state digest)     base: leaf hash of the genesis, or the task's digest
    chain(n) = H(tag chain, chain(n-1), state digest)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from polchain.core import merkle
from polchain.core.digest import Digest, sha256, tag
from polchain.core.encoding import JSON, Fields, decode, encode, hex_float
from polchain.core.genesis import MAX_FILES, FileRef, Genesis, parse_key
from polchain.core.keys import PublicKey
from polchain.core.manifest import state_digest
from polchain.core.rows import GROUPS
from polchain.errors import FormatError

__all__ = [
    "BeaconRef",
    "CheckpointEntry",
    "Entry",
    "Final",
    "KeyChange",
    "Start",
    "Update",
    "chain_base",
    "extend_chain",
    "leaf_data",
    "parse_entry",
    "prev_of",
]

ENTRY_LIMIT = 65_535

SEED_SOURCES = ("prover", "beacon", "task")
MAX_STEP = 2**40

# A checkpoint entry in its canonical form. Of floats only those whose one spelling a pattern tells: with an exponent of
# three digits none is infinite or subnormal.
_PLAIN = re.compile(
    rb'{(?:"batches":"blake3:(HEX)",)?"chain":"sha256:(HEX)","kind":"checkpoint",(?:"loss":"(-?FLOAT|-?ZERO)",)?'
    rb'"prev":"sha256:(HEX)","state":{"extra":"sha256:(HEX)","model":"sha256:(HEX)","optimizer":"sha256:(HEX)",'
    rb'"schedule":"sha256:(HEX)"},"step":(0|[1-9][0-9]{0,12})'
    rb'(?:,"update":{"l2":"(FLOAT|-?ZERO)","linf":"(FLOAT|-?ZERO)"})?}'.replace(b"HEX", rb"[0-9a-f]{64}")
    .replace(b"FLOAT", rb"0x1\.[0-9a-f]{13}p(?:\+(?:0|[1-9][0-9]{0,2})|-[1-9][0-9]{0,2})")
    .replace(b"ZERO", rb"0x0\.0p\+0")
)


@dataclass(frozen=True, slots=True)
class Update:
    """Size of the change of all parameters since the last checkpoint: l2 and linf norms."""

    l2: float
    linf: float


@dataclass(frozen=True, slots=True)
class BeaconRef:
    """Which block's hash the seed comes from.

    Attributes:
        chain: the chain's number (EIP-155).
        network: what the prover calls it.
        block: the block's number.
    """

    chain: int
    network: str
    block: int

    def to_json(self) -> dict[str, JSON]:
        return {"chain": self.chain, "network": self.network, "block": self.block}

    @classmethod
    def parse(cls, fields: Fields) -> BeaconRef:
        ref = cls(fields.int("chain", minimum=1), fields.str("network", max_length=64), fields.int("block"))
        fields.done()
        return ref


@dataclass(frozen=True, slots=True)
class Start:
    """Where the seed comes from, and the execution fingerprint.

    Attributes:
        source: `prover`, `beacon` or `task`.
        value: 32 bytes: what the prover drew, the beacon's block hash, the task's seed.
        beacon: which block, where the source is a beacon; None otherwise.
    """

    prev: Digest
    source: str
    value: bytes
    fingerprint: Mapping[str, str | int | bool]
    beacon: BeaconRef | None = None
    kind: ClassVar[str] = "start"

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {
            "source": self.source,
            "value": self.value.hex(),
            "fingerprint": dict(self.fingerprint),
        }
        if self.beacon is not None:
            value["beacon"] = self.beacon.to_json()
        return value

    @classmethod
    def parse(cls, fields: Fields, prev: Digest) -> Start:
        source = fields.str("source")
        value = fields.str("value")
        if source not in SEED_SOURCES or len(value) != 64 or any(c not in "0123456789abcdef" for c in value):
            raise FormatError("start: the seed is not 32 bytes from a known source")
        fingerprint: dict[str, str | int | bool] = {}
        for name, item in fields.dict("fingerprint").items():
            if not isinstance(item, str | int | bool) or (isinstance(item, str) and len(item) > 1024):
                raise FormatError(f"start: fingerprint {name[:64]!r} is not a short string or number")
            fingerprint[name] = item
        beacon = BeaconRef.parse(fields.fields("beacon")) if fields.has("beacon") else None
        if (beacon is not None) != (source == "beacon"):
            raise FormatError("start: a beacon's seed names its block, and no other does")
        return cls(prev, source, bytes.fromhex(value), fingerprint, beacon)


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """A training state at a step."""

    prev: Digest
    step: int
    roots: Mapping[str, Digest]
    chain: Digest
    batches: Digest | None = None
    update: Update | None = None
    loss: float | None = None
    kind: ClassVar[str] = "checkpoint"

    @property
    def state(self) -> Digest:
        """The state digest, which names manifest and checkpoint file."""
        return state_digest(self.roots)

    def to_json(self) -> dict[str, JSON]:
        value = _state_json(self.step, self.roots, self.chain)
        if self.batches is not None:
            value["batches"] = str(self.batches)
        if self.update is not None:
            value["update"] = {"l2": hex_float(self.update.l2), "linf": hex_float(self.update.linf)}
        if self.loss is not None:
            value["loss"] = hex_float(self.loss)
        return value

    @classmethod
    def parse(cls, fields: Fields, prev: Digest) -> CheckpointEntry:
        step, roots, chain = _parse_state(fields)
        update = None
        if fields.has("update"):
            inner = fields.fields("update")
            update = Update(inner.float("l2"), inner.float("linf"))
            if update.l2 < 0 or update.linf < 0:
                raise FormatError("checkpoint: the size of an update is not negative")
            inner.done()
        return cls(
            prev,
            step,
            roots,
            chain,
            batches=Digest.parse(fields.str("batches")) if fields.has("batches") else None,
            update=update,
            loss=fields.float("loss") if fields.has("loss") else None,
        )


@dataclass(frozen=True, slots=True)
class Final:
    """The end of a run: its last state, and digests of weight files exported from it."""

    prev: Digest
    step: int
    roots: Mapping[str, Digest]
    chain: Digest
    files: tuple[FileRef, ...] = ()
    kind: ClassVar[str] = "final"

    @property
    def state(self) -> Digest:
        """The state digest of the last checkpoint."""
        return state_digest(self.roots)

    def to_json(self) -> dict[str, JSON]:
        value = _state_json(self.step, self.roots, self.chain)
        value["files"] = [ref.to_json() for ref in self.files]
        return value

    @classmethod
    def parse(cls, fields: Fields, prev: Digest) -> Final:
        step, roots, chain = _parse_state(fields)
        files = tuple(FileRef.parse(item) for item in fields.list("files", max_items=MAX_FILES))
        return cls(prev, step, roots, chain, files)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """Rotation to a key, or revocation of one."""

    prev: Digest
    kind: str
    key: PublicKey

    def to_json(self) -> dict[str, JSON]:
        return {"key": str(self.key)}


Entry = Genesis | Start | CheckpointEntry | Final | KeyChange


def encode_entry(entry: Entry) -> bytes:
    """Canonical bytes of an entry.

    Raises:
        FormatError: over 65,535 bytes; whatever is larger is referenced by digest.
    """
    value: dict[str, JSON] = {"kind": entry.kind, "prev": str(entry.prev), **entry.to_json()}
    data = encode(value)
    if len(data) > ENTRY_LIMIT:
        raise FormatError(f"{entry.kind} entry of {len(data)} bytes, over the limit of {ENTRY_LIMIT}")
    return data


def parse_entry(data: bytes) -> Entry:
    """Parse an entry that a stranger wrote.

    Raises:
        FormatError: not canonical, over the limit, unknown kind, or a field missing, unknown or malformed.
        SignatureError: a key in it is unsafe.
    """
    return _parse_plain(data) or _parse_any(data)


def prev_of(data: bytes) -> merkle.Hash:
    """The root that an entry carries, of an entry that `parse_entry` takes; of nearly all a sixth as long.

    Raises:
        FormatError, SignatureError: as `parse_entry`.
    """
    found = _match_plain(data)
    return parse_entry(data).prev.value if found is None else bytes.fromhex(found[4].decode())


def _match_plain(data: bytes) -> re.Match[bytes] | None:
    found = _PLAIN.fullmatch(data)
    return None if found is None or int(found[9]) > MAX_STEP else found


def _parse_plain(data: bytes) -> CheckpointEntry | None:
    """A checkpoint entry as nearly all are, a third as long as `_parse_any` takes; None where it is to say."""
    found = _match_plain(data)
    if found is None:
        return None
    batches, chain, loss, prev, extra, model, optimizer, schedule, step, l2, linf = found.groups()
    return CheckpointEntry(
        _sha256(prev),
        int(step),
        dict(zip(GROUPS, map(_sha256, (model, optimizer, schedule, extra)), strict=True)),
        _sha256(chain),
        Digest("blake3", bytes.fromhex(batches.decode())) if batches is not None else None,
        Update(float.fromhex(l2.decode()), float.fromhex(linf.decode())) if l2 is not None else None,
        float.fromhex(loss.decode()) if loss is not None else None,
    )


def _sha256(digits: bytes) -> Digest:
    return Digest("sha256", bytes.fromhex(digits.decode()))


def _parse_any(data: bytes) -> Entry:
    fields = Fields(decode(data, limit=ENTRY_LIMIT, what="entry"), "entry")
    kind = fields.str("kind")
    prev = Digest.parse(fields.str("prev"))
    if prev.algorithm != "sha256":
        raise FormatError("entry: prev is a tree root, which is sha256")
    entry: Entry
    if kind == "genesis":
        entry = Genesis.parse(fields, prev)
    elif kind == "start":
        entry = Start.parse(fields, prev)
    elif kind == "checkpoint":
        entry = CheckpointEntry.parse(fields, prev)
    elif kind == "final":
        entry = Final.parse(fields, prev)
    elif kind in ("rotate", "revoke"):
        entry = KeyChange(prev, kind, parse_key(fields.str("key")))
    else:
        raise FormatError(f"entry: unknown kind {kind[:32]!r}")
    fields.done()
    return entry


def leaf_data(entry: bytes) -> bytes:
    """What the tree hashes for an entry: the tag `entry`, then its bytes."""
    return tag("entry") + entry


def chain_base(genesis: Genesis) -> bytes:
    """Where `chain` begins: the task's digest where there is one, so that workers of one task can be compared."""
    if genesis.task is not None:
        return genesis.task.value
    return merkle.leaf_hash(leaf_data(encode_entry(genesis)))


def extend_chain(before: bytes, state: Digest) -> Digest:
    """The next value of `chain`, from the one before and a state digest."""
    return sha256(tag("chain"), before, state.value)


def _state_json(step: int, roots: Mapping[str, Digest], chain: Digest) -> dict[str, JSON]:
    return {"step": step, "state": {group: str(roots[group]) for group in GROUPS}, "chain": str(chain)}


def _parse_state(fields: Fields) -> tuple[int, dict[str, Digest], Digest]:
    step = fields.int("step", maximum=MAX_STEP)
    inner = fields.fields("state")
    roots = {group: Digest.parse(inner.str(group)) for group in GROUPS}
    inner.done()
    chain = Digest.parse(fields.str("chain"))
    if chain.algorithm != "sha256" or any(root.algorithm != "sha256" for root in roots.values()):
        raise FormatError("entry: state roots and chain are sha256")
    return step, roots, chain
