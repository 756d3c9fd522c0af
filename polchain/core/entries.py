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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from polchain.core import merkle
from polchain.core.digest import Digest, sha256, tag
from polchain.core.encoding import JSON, Fields, decode, encode, hex_float
from polchain.core.manifest import GROUPS, state_digest
from polchain.core.note import PublicKey
from polchain.errors import FormatError

__all__ = [
    "CheckpointEntry",
    "Configuration",
    "DatasetRef",
    "Entry",
    "FileRef",
    "Final",
    "Genesis",
    "KeyChange",
    "RecipeRef",
    "Start",
    "Update",
    "chain_base",
    "extend_chain",
    "leaf_data",
    "parse_entry",
]

VERSION = 1
ENTRY_LIMIT = 65_535
MAX_FILES = 1_000
MAX_PATH = 512

PRECISIONS = ("fp32", "tf32", "bf16", "fp64")
SEED_SOURCES = ("prover", "beacon", "task")


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file by its relative POSIX path, length in bytes and BLAKE3 digest."""

    path: str
    size: int
    digest: Digest

    def to_json(self) -> JSON:
        return {"path": self.path, "size": self.size, "digest": str(self.digest)}

    @classmethod
    def parse(cls, value: JSON, what: str = "file") -> FileRef:
        fields = Fields(value, what)
        ref = cls(
            safe_path(fields.str("path", max_length=MAX_PATH)), fields.int("size"), Digest.parse(fields.str("digest"))
        )
        fields.done()
        return ref


@dataclass(frozen=True, slots=True)
class RecipeRef:
    """What is run: the entry point, its arguments, its files, and the versions of what it imports."""

    entry: str
    module: bool
    arguments: tuple[str, ...]
    files: tuple[FileRef, ...]
    imports: tuple[str, ...]

    def to_json(self) -> JSON:
        return {
            "entry": self.entry,
            "module": self.module,
            "arguments": list(self.arguments),
            "files": [ref.to_json() for ref in self.files],
            "imports": list(self.imports),
        }

    def program(self) -> Digest:
        """The digest that a verifier vouches for: entry point, arguments and files; not the library versions."""
        value = self.to_json()
        assert isinstance(value, dict)
        del value["imports"]
        return sha256(tag("recipe"), encode(value))

    @classmethod
    def parse(cls, fields: Fields) -> RecipeRef:
        ref = cls(
            entry=fields.str("entry", max_length=MAX_PATH),
            module=fields.bool("module"),
            arguments=_strings(fields, "arguments", 4096),
            files=tuple(FileRef.parse(item, "recipe file") for item in fields.list("files", max_items=MAX_FILES)),
            imports=_strings(fields, "imports", 256),
        )
        fields.done()
        paths = [file.path for file in ref.files]
        if paths != sorted(set(paths)):
            raise FormatError("recipe: the files are not sorted, or one is listed twice")
        if not ref.module and ref.entry not in paths:
            raise FormatError("recipe: the entry point is not one of its files")
        if ref.module and not all(part.isidentifier() for part in ref.entry.split(".")):
            raise FormatError("recipe: the entry point is not a module's name")
        return ref


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """The dataset commitment: how many samples, and the RFC 6962 root over them."""

    samples: int
    root: Digest

    def to_json(self) -> JSON:
        return {"samples": self.samples, "root": str(self.root)}

    @classmethod
    def parse(cls, fields: Fields) -> DatasetRef:
        ref = cls(fields.int("samples", minimum=1, maximum=2**40), Digest.parse(fields.str("root")))
        fields.done()
        if ref.root.algorithm != "sha256":
            raise FormatError("dataset: its root is a tree's, which is sha256")
        return ref


@dataclass(frozen=True, slots=True)
class Configuration:
    """How the recipe is run.

    Attributes:
        steps: the most steps the run may have.
        batch_size: samples in a step; an epoch's tail shorter than this is dropped.
        interval: pairs (from step, checkpointing interval k), the first from step 0.
        precision: one of fp32, tf32, bf16, fp64.
        deterministic: whether nondeterministic operators stop the run.
    """

    steps: int
    batch_size: int
    interval: tuple[tuple[int, int], ...]
    precision: str
    deterministic: bool

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.interval]
        if not self.interval or starts[0] != 0 or starts != sorted(set(starts)):
            raise FormatError("configuration: the interval schedule does not begin at step 0, or goes backwards")
        if self.steps < 1 or self.batch_size < 1 or any(k < 1 for _, k in self.interval):
            raise FormatError("configuration: steps, batch size and intervals are at least 1")
        if self.precision not in PRECISIONS:
            raise FormatError(f"configuration: precision is none of {', '.join(PRECISIONS)}")

    def next_checkpoint(self, step: int) -> int:
        """The first checkpoint step after `step`; the last step of the run always is one."""
        index = max(i for i, (start, _) in enumerate(self.interval) if start <= step)
        start, every = self.interval[index]
        candidate = start + ((step - start) // every + 1) * every
        if index + 1 < len(self.interval):
            candidate = min(candidate, self.interval[index + 1][0])
        return min(candidate, self.steps)

    def to_json(self) -> JSON:
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "interval": [[start, every] for start, every in self.interval],
            "precision": self.precision,
            "deterministic": self.deterministic,
        }

    @classmethod
    def parse(cls, fields: Fields) -> Configuration:
        pairs = tuple(_pair(item) for item in fields.list("interval", max_items=1024))
        value = cls(
            steps=fields.int("steps", minimum=1, maximum=2**40),
            batch_size=fields.int("batch_size", minimum=1, maximum=2**32),
            interval=pairs,
            precision=fields.str("precision"),
            deterministic=fields.bool("deterministic"),
        )
        fields.done()
        return value


@dataclass(frozen=True, slots=True)
class Update:
    """Size of the change of all parameters since the last checkpoint: l2 and linf norms."""

    l2: float
    linf: float


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first entry of a log."""

    run_id: bytes
    key: PublicKey
    recovery: PublicKey | None = None
    recipe: RecipeRef | None = None
    dataset: DatasetRef | None = None
    configuration: Configuration | None = None
    task: Digest | None = None
    parent: Digest | None = None
    prev: Digest = field(default_factory=lambda: Digest("sha256", merkle.EMPTY_ROOT))
    kind: ClassVar[str] = "genesis"

    @property
    def foreign(self) -> bool:
        """True where polchain did not own the loop: nothing can be replayed."""
        return self.recipe is None

    def to_json(self) -> dict[str, JSON]:
        value: dict[str, JSON] = {"version": VERSION, "run_id": self.run_id.hex(), "key": str(self.key)}
        _put(value, "recovery", self.recovery)
        for name, part in (("recipe", self.recipe), ("dataset", self.dataset), ("configuration", self.configuration)):
            if part is not None:
                value[name] = part.to_json()
        _put(value, "task", self.task)
        _put(value, "parent", self.parent)
        return value

    @classmethod
    def parse(cls, fields: Fields, prev: Digest) -> Genesis:
        if fields.int("version") != VERSION:
            raise FormatError("genesis: written by another version of polchain")
        run_id = fields.str("run_id")
        if len(run_id) != 32 or run_id != run_id.lower() or not all(c in "0123456789abcdef" for c in run_id):
            raise FormatError("genesis: run_id is not 16 bytes in hex")
        value = cls(
            run_id=bytes.fromhex(run_id),
            key=_key(fields.str("key")),
            recovery=_key(fields.str("recovery")) if fields.has("recovery") else None,
            recipe=RecipeRef.parse(fields.fields("recipe")) if fields.has("recipe") else None,
            dataset=DatasetRef.parse(fields.fields("dataset")) if fields.has("dataset") else None,
            configuration=Configuration.parse(fields.fields("configuration")) if fields.has("configuration") else None,
            task=_digest(fields, "task") if fields.has("task") else None,
            parent=_digest(fields, "parent") if fields.has("parent") else None,
            prev=prev,
        )
        owned = [part is not None for part in (value.recipe, value.dataset, value.configuration)]
        if any(owned) != all(owned):
            raise FormatError("genesis: recipe, dataset and configuration come together or not at all")
        return value


@dataclass(frozen=True, slots=True)
class Start:
    """Where the seed comes from, and the execution fingerprint."""

    prev: Digest
    source: str
    value: bytes
    fingerprint: Mapping[str, str | int | bool]
    kind: ClassVar[str] = "start"

    def to_json(self) -> dict[str, JSON]:
        return {"source": self.source, "value": self.value.hex(), "fingerprint": dict(self.fingerprint)}

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
        return cls(prev, source, bytes.fromhex(value), fingerprint)


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
        _put(value, "batches", self.batches)
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
            batches=_digest(fields, "batches") if fields.has("batches") else None,
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
    fields = Fields(decode(data, limit=ENTRY_LIMIT, what="entry"), "entry")
    kind = fields.str("kind")
    prev = _digest(fields, "prev")
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
        entry = KeyChange(prev, kind, _key(fields.str("key")))
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


def safe_path(text: str) -> str:
    """A relative POSIX path that stays where it is put, unchanged.

    Raises:
        FormatError: absolute, empty, with `.`, `..`, a backslash, a colon, or a character that does not print.
    """
    parts = text.split("/")
    if (
        not text.isprintable()
        or len(text.encode("utf-8", "surrogatepass")) > MAX_PATH
        or any(c in text for c in "\\:")
        or any(part in ("", ".", "..") or part != part.strip() for part in parts)
    ):
        raise FormatError(f"unsafe path {text[:MAX_PATH]!r}")
    return text


def _state_json(step: int, roots: Mapping[str, Digest], chain: Digest) -> dict[str, JSON]:
    return {"step": step, "state": {group: str(roots[group]) for group in GROUPS}, "chain": str(chain)}


def _parse_state(fields: Fields) -> tuple[int, dict[str, Digest], Digest]:
    step = fields.int("step", maximum=2**40)
    inner = fields.fields("state")
    roots = {group: _digest(inner, group) for group in GROUPS}
    inner.done()
    chain = _digest(fields, "chain")
    if chain.algorithm != "sha256" or any(root.algorithm != "sha256" for root in roots.values()):
        raise FormatError("entry: state roots and chain are sha256")
    return step, roots, chain


def _digest(fields: Fields, name: str) -> Digest:
    return Digest.parse(fields.str(name))


def _key(text: str) -> PublicKey:
    key = PublicKey.parse(text)
    if str(key) != text:
        raise FormatError("entry: a key is written as ed25519:<hex>")
    return key


def _put(value: dict[str, JSON], name: str, part: object | None) -> None:
    if part is not None:
        value[name] = str(part)


def _pair(value: JSON) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError("configuration: an interval is a pair")
    start, every = value
    if not isinstance(start, int) or not isinstance(every, int) or isinstance(start, bool) or isinstance(every, bool):
        raise FormatError("configuration: an interval is a pair of integers")
    return start, every


def _strings(fields: Fields, name: str, longest: int) -> tuple[str, ...]:
    items = fields.list(name, max_items=4096)
    if not all(isinstance(item, str) and len(item) <= longest for item in items):
        raise FormatError(f"recipe: {name} holds something that is not a short string")
    return tuple(str(item) for item in items)
