"""Manifests: a training state as rows.

A manifest is canonical JSON, rows sorted by the bytes of their names (what a row may be is in `core.rows`):

    {"format": "polchain-manifest/v1", "rows": [row, ...]}

Each group of rows has an RFC 6962 root (leaf data: tag `row`, then the row's canonical JSON); the roots together have
one digest, the state digest, which names the files `manifests/<hex>.json` and `checkpoints/<hex>.safetensors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from polchain.core import merkle
from polchain.core.digest import Digest, sha256, tag
from polchain.core.encoding import Fields, decode, encode
from polchain.core.rows import (
    GROUPS,
    Row,
    TensorRow,
    check_row,
    group_of,
    parse_row,
)
from polchain.errors import FormatError, ManifestError

__all__ = ["Manifest", "Snapshot", "check_manifest", "state_digest", "state_of_roots"]

FORMAT = "polchain-manifest/v1"
_SORTED = sorted(GROUPS)
MANIFEST_LIMIT = 256 * 1024 * 1024
MAX_ROWS = 4_000_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """The rows of one training state, sorted by name, each name once.

    Raises:
        ManifestError: on construction, for unsorted or repeated names, an unknown group or dtype, a size that
            overflows, or an alias to something that is not a tensor of the same group.
    """

    rows: tuple[Row, ...]
    _by_name: Mapping[str, Row] = field(init=False, repr=False, compare=False)
    _roots: dict[str, Digest] = field(init=False, repr=False, compare=False)  # empty until somebody asks

    def __post_init__(self) -> None:
        object.__setattr__(self, "_roots", {})
        by_name = {row.name: row for row in self.rows}
        object.__setattr__(self, "_by_name", MappingProxyType(by_name))
        previous = b""
        for row in self.rows:
            name = row.name.encode("utf-8", "surrogatepass")
            if name <= previous:
                raise ManifestError(f"row {row.name!r} is out of order or repeated")
            previous = name
            check_row(row, by_name)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Manifest:
        """The manifest of these rows, sorted here."""
        return cls(tuple(sorted(rows, key=lambda row: row.name.encode("utf-8", "surrogatepass"))))

    def with_digests(self, digests: Mapping[str, Digest]) -> Manifest:
        """The same rows, each tensor with its digest, by name."""
        return Manifest(
            tuple(
                TensorRow(row.name, row.role, row.dtype, row.shape, digests[row.name])
                if isinstance(row, TensorRow)
                else row
                for row in self.rows
            )
        )

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Row:
        return self._by_name[name]

    def group(self, group: str) -> tuple[Row, ...]:
        """The rows of one group, sorted."""
        return tuple(row for row in self.rows if group_of(row.name) == group)

    def tensors(self) -> tuple[TensorRow, ...]:
        """The rows that have bytes in a checkpoint file, sorted by name."""
        return tuple(row for row in self.rows if isinstance(row, TensorRow))

    def roots(self) -> dict[str, Digest]:
        """One RFC 6962 root per group, over the rows; an empty group has the empty tree's root."""
        if not self._roots:
            leaves: dict[str, list[bytes]] = {group: [] for group in GROUPS}
            mark = tag("row")
            for row in self.rows:
                leaves[group_of(row.name)].append(merkle.leaf_hash(mark + _encoded(row)))
            self._roots.update({group: Digest("sha256", merkle.root(hashes)) for group, hashes in leaves.items()})
        return dict(self._roots)

    def state(self) -> Digest:
        """The state digest: one name for the whole training state."""
        return state_digest(self.roots())

    def encode(self) -> bytes:
        """Canonical bytes."""
        return b'{"format":"%b","rows":[%b]}' % (FORMAT.encode(), b",".join(map(_encoded, self.rows)))

    @classmethod
    def decode(cls, data: bytes, *, limit: int = MANIFEST_LIMIT) -> Manifest:
        """Parse a manifest that a stranger wrote.

        Raises:
            FormatError: not canonical, over a limit, or not a manifest.
            ManifestError: the rows contradict each other.
        """
        fields = Fields(decode(data, limit=limit, what="manifest"), "manifest")
        if fields.str("format") != FORMAT:
            raise FormatError(f"manifest: the format is not {FORMAT}")
        rows = tuple(parse_row(item) for item in fields.list("rows", max_items=MAX_ROWS))
        fields.done()
        return cls(rows)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A training state by value: its manifest, and the bytes of each tensor row by name."""

    manifest: Manifest
    buffers: Mapping[str, memoryview]


def state_digest(roots: Mapping[str, Digest]) -> Digest:
    """SHA-256 of the tag `state` and the canonical JSON of the four group roots."""
    return sha256(tag("state"), encode({group: str(roots[group]) for group in GROUPS}))


def state_of_roots(roots: Sequence[bytes]) -> Digest:
    """What `state_digest` gives for SHA-256 roots in the order of `GROUPS`: a log has millions of them."""
    texts = {group: value.hex() for group, value in zip(GROUPS, roots, strict=True)}
    # What `encode` gives: no digest's text needs an escape.
    text = ",".join([f'"{group}":"sha256:{texts[group]}"' for group in _SORTED])
    return sha256(tag("state"), f"{{{text}}}".encode())


def check_manifest(manifest: Manifest, roots: Mapping[str, Digest]) -> None:
    """Check that a manifest is the one whose group roots a log entry holds.

    Raises:
        ManifestError: the root of a group differs; the group is named.
    """
    actual = manifest.roots()
    for group in GROUPS:
        if actual[group] != roots.get(group):
            raise ManifestError(f"the manifest's {group} rows are not the ones that the log entry commits to")


def _encoded(row: Row) -> bytes:
    return row.encode() if isinstance(row, TensorRow) else encode(row.to_json())
