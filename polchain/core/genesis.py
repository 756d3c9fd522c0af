"""The genesis: the first entry of a log, and what it says of program, data and configuration.

version, run_id, key              whose log
recovery                          a key that may replace it (optional)
ethereum                          the address that heads are published from, bound both ways (optional; `binding`)
beacon                            the chain that the seed is to come from (optional)
recipe, dataset, configuration    what is run; none of them in a foreign run
task, parent                      who ordered it, what it continues (optional)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from polchain.core import merkle
from polchain.core.binding import Binding
from polchain.core.digest import Digest, sha256, tag
from polchain.core.encoding import JSON, Fields, encode
from polchain.core.keys import PublicKey
from polchain.errors import FormatError

__all__ = [
    "Configuration",
    "DatasetRef",
    "FileRef",
    "Genesis",
    "RecipeRef",
    "parse_key",
    "safe_path",
]

VERSION = 1
MAX_FILES = 1_000
MAX_PATH = 512

PRECISIONS = ("fp32", "tf32", "bf16", "fp64")


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
    """The dataset commitment: how many samples, and the RFC 6962 root over them.

    Attributes:
        salts: the commitment to the secret that its leaves are salted with (`salts`); None where they are not.
    """

    samples: int
    root: Digest
    salts: Digest | None = None

    def to_json(self) -> JSON:
        value: dict[str, JSON] = {"samples": self.samples, "root": str(self.root)}
        _put(value, "salts", self.salts)
        return value

    @classmethod
    def parse(cls, fields: Fields) -> DatasetRef:
        ref = cls(
            fields.int("samples", minimum=1, maximum=2**40),
            Digest.parse(fields.str("root")),
            Digest.parse(fields.str("salts")) if fields.has("salts") else None,
        )
        fields.done()
        if ref.root.algorithm != "sha256":
            raise FormatError("dataset: its root is a tree's, which is sha256")
        if ref.salts is not None and ref.salts.algorithm != "sha256":
            raise FormatError("dataset: the commitment to a secret is sha256")
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
class Genesis:
    """The first entry of a log."""

    run_id: bytes
    key: PublicKey
    recovery: PublicKey | None = None
    ethereum: Binding | None = None
    beacon: int | None = None
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
        for name, part in (
            ("ethereum", self.ethereum),
            ("recipe", self.recipe),
            ("dataset", self.dataset),
            ("configuration", self.configuration),
        ):
            if part is not None:
                value[name] = part.to_json()
        if self.beacon is not None:
            value["beacon"] = self.beacon
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
            key=parse_key(fields.str("key")),
            recovery=parse_key(fields.str("recovery")) if fields.has("recovery") else None,
            ethereum=Binding.parse(fields.fields("ethereum")) if fields.has("ethereum") else None,
            recipe=RecipeRef.parse(fields.fields("recipe")) if fields.has("recipe") else None,
            dataset=DatasetRef.parse(fields.fields("dataset")) if fields.has("dataset") else None,
            configuration=Configuration.parse(fields.fields("configuration")) if fields.has("configuration") else None,
            beacon=fields.int("beacon", minimum=1) if fields.has("beacon") else None,
            task=Digest.parse(fields.str("task")) if fields.has("task") else None,
            parent=Digest.parse(fields.str("parent")) if fields.has("parent") else None,
            prev=prev,
        )
        owned = [part is not None for part in (value.recipe, value.dataset, value.configuration)]
        if any(owned) != all(owned):
            raise FormatError("genesis: recipe, dataset and configuration come together or not at all")
        if value.beacon is not None and (value.ethereum is None or value.foreign):
            raise FormatError("genesis: a beacon takes an address that publishes the genesis, and a recipe")
        return value


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


def parse_key(text: str) -> PublicKey:
    """A public key as entries write it.

    Raises:
        FormatError: written otherwise.
        SignatureError: the key is unsafe.
    """
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
