"""The claim: the portable evidence of one run, a folder, or the same as one canonical zip (`archive`).

    claim.json                      canonical JSON: {"format": "polchain-claim/v1", "files": [{path, size, digest}...]}
    entries.jsonl                   the log: one entry a line, each line ended by a newline
    heads/last.note                 the signed head over all of it
    heads/<size>.note               the heads that were anchored
    anchors/<size>-<source>.json    the receipts of those heads (`anchors.receipts`)
    anchors/beacon.json             the block whose hash the seed comes from (`anchors.beacon`)
    recipe/<path>                   the recipe's files
    manifests/<state>.json          rows of the states that the log commits to
    checkpoints/<state>.safetensors tensors of the disclosed states

`claim.json` lists every other file, sorted by path. Reading takes nothing at its word: only these names are a claim's,
each count and size has a limit, links are refused, a path must stay inside, a file that is not listed is refused, and
each file's digest is compared before anything looks inside; tensors' by `Claim.check_file`, once their manifest says
how long they are. Nothing is executed and nothing is unpickled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from polchain.core.archive import is_archive, read_archive
from polchain.core.digest import Digest, blake3
from polchain.core.encoding import Fields, decode, encode
from polchain.core.entries import ENTRY_LIMIT
from polchain.core.genesis import FileRef
from polchain.core.manifest import MANIFEST_LIMIT, Manifest
from polchain.core.place import Place, hash_file
from polchain.core.source import check_source
from polchain.errors import FormatError, ManifestError, MissingFileError, UsageError

__all__ = ["Claim", "hash_file", "head_name", "list_files", "receipt_name", "write_listing"]

FORMAT = "polchain-claim/v1"
LISTING = "claim.json"
ENTRIES = "entries.jsonl"
HEAD = "heads/last.note"
BEACON = "anchors/beacon.json"

LISTING_LIMIT = 32 * 1024 * 1024
ENTRIES_LIMIT = 4 * 1024**3
HEAD_LIMIT = 65_536
RECEIPT_LIMIT = 1024 * 1024
RECIPE_LIMIT = 256 * 1024
MAX_FILES = 1_000_000
MAX_ENTRIES = 16_000_000
MAX_RECEIPTS = 10_000

MANIFESTS = re.compile(r"manifests/[0-9a-f]{64}\.json")
CHECKPOINTS = re.compile(r"checkpoints/[0-9a-f]{64}\.safetensors")
HEADS = re.compile(r"heads/([1-9][0-9]{0,11})\.note")
RECEIPTS = re.compile(r"anchors/([1-9][0-9]{0,11})-([a-z0-9]+(?:-[a-z0-9]+)*)\.json")
MAX_SOURCE = 80


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim as it was read: every listed file is there and is the listed one (tensors: `check_file`), no other is.

    What its contents mean is `verifier.integrity`'s to say.
    """

    path: Path
    files: Mapping[str, FileRef]
    places: Mapping[str, Place]

    @classmethod
    def read(cls, path: Path | str) -> Claim:
        """Read a claim: a folder, or a canonical zip.

        Raises:
            MissingFileError: the claim, `claim.json` or a listed file is not there.
            FormatError: over a limit, a path that no claim has, a link, an unlisted file, a file that is not the
                listed one, or a zip that is not canonical. Of files with tensors only the length was compared.
        """
        root = Path(path)
        packed = {one.name: Place(root, one) for one in read_archive(root)} if is_archive(root) else None
        if packed is None and not root.is_dir():
            raise MissingFileError(
                f"no claim at {root}", hint="a claim is the folder, or the zip, that `polchain export` writes"
            )
        data = (packed or {}).get(LISTING, Place(root / LISTING)).read(LISTING, LISTING_LIMIT)
        listing = Fields(decode(data, limit=LISTING_LIMIT, what=LISTING), LISTING)
        if listing.str("format") != FORMAT:
            raise FormatError(f"{LISTING}: the format is not {FORMAT}")
        refs = [FileRef.parse(item, LISTING) for item in listing.list("files", max_items=MAX_FILES)]
        listing.done()
        paths = [ref.path for ref in refs]
        if paths != sorted(set(paths)) or LISTING in paths:
            raise FormatError(f"{LISTING}: the files are not sorted, or one is listed twice")
        _check_limits(refs)
        if packed is None:
            _refuse_unlisted(root, set(paths))
        else:
            _refuse_unpacked(set(packed), set(paths))
        places = {name: Place(root / name) if packed is None else packed[name] for name in paths}
        for ref in refs:
            places[ref.path].check(ref, LISTING, hashed=CHECKPOINTS.fullmatch(ref.path) is None)
        return cls(root, MappingProxyType({ref.path: ref for ref in refs}), MappingProxyType(places))

    def check_file(self, name: str) -> None:
        """Compare a listed file's length and digest with the listing.

        Raises:
            MissingFileError: it is not listed, or not there.
            FormatError: it is another file.
        """
        if name not in self.files:
            raise MissingFileError(f"{name} is not in the claim", hint="ask the prover for it")
        self.places[name].check(self.files[name], LISTING)

    def entries(self) -> Iterator[bytes]:
        """The log's entries, in order, as bytes; the file is read as they are asked for."""
        place = self.places.get(ENTRIES, Place(self.path / ENTRIES))
        for number, line in enumerate(place.lines(ENTRIES, ENTRIES_LIMIT, ENTRY_LIMIT)):
            if number == MAX_ENTRIES:
                raise FormatError(f"{ENTRIES}: more than {MAX_ENTRIES} entries")
            yield line

    def head(self) -> bytes:
        """The last signed head, as bytes."""
        return self._read(HEAD, HEAD_LIMIT)

    def heads(self) -> dict[int, bytes]:
        """The anchored heads by the size that their names give, smallest first."""
        found = {int(match[1]): name for name in self.files if (match := HEADS.fullmatch(name))}
        return {size: self._read(found[size], HEAD_LIMIT) for size in sorted(found)}

    def receipts(self) -> Iterator[tuple[str, int, bytes]]:
        """The receipts: name, the size of the head that the name gives, bytes; by rising size."""
        found = sorted((int(match[1]), name) for name in self.files if (match := RECEIPTS.fullmatch(name)))
        return ((name, size, self._read(name, RECEIPT_LIMIT)) for size, name in found)

    def beacon(self) -> bytes | None:
        """The beacon's evidence, as bytes; None where there is none."""
        return self._read(BEACON, RECEIPT_LIMIT) if BEACON in self.files else None

    def recipe(self) -> dict[str, bytes]:
        """The recipe's files by relative path.

        Raises:
            FormatError: together over 256 KiB, or not what a reader sees (`source`).
        """
        names = [name for name in self.files if name.startswith("recipe/")]
        if sum(self.files[name].size for name in names) > RECIPE_LIMIT:
            raise FormatError(
                f"the recipe is over {RECIPE_LIMIT} bytes", hint="a recipe is text: data belongs in the dataset"
            )
        texts = {name: self._read(name, RECIPE_LIMIT) for name in names}
        for name, text in texts.items():
            if blake3(text) != self.files[name].digest:
                raise FormatError(f"{name} changed while the claim was read")
            check_source(text, name)
        return {name.removeprefix("recipe/"): text for name, text in texts.items()}

    def manifest(self, state: Digest) -> Manifest | None:
        """The manifest of a state, or None where it is not disclosed.

        Raises:
            FormatError, ManifestError: malformed, or of another state.
        """
        name = manifest_name(state)
        if name not in self.places:
            return None
        manifest = Manifest.decode(self._read(name, MANIFEST_LIMIT))
        if manifest.state() != state:
            raise ManifestError(f"{name} is the manifest of another state")
        return manifest

    def checkpoint(self, state: Digest) -> Place | None:
        """Where a state's tensors lie, or None where they are not disclosed."""
        return self.places.get(checkpoint_name(state))

    def plus(self, places: Mapping[str, Place]) -> Claim:
        """The same claim, with states that are disclosed elsewhere; who adds them has checked them."""
        return replace(self, places=MappingProxyType({**places, **self.places}))

    def _read(self, name: str, limit: int) -> bytes:
        return self.places.get(name, Place(self.path / name)).read(name, limit)


def manifest_name(state: Digest) -> str:
    """Where a claim or a run keeps the manifest of a state."""
    return f"manifests/{state.hex}.json"


def checkpoint_name(state: Digest) -> str:
    """Where a claim or a run keeps the tensors of a state."""
    return f"checkpoints/{state.hex}.safetensors"


def head_name(size: int) -> str:
    """Where a claim or a run keeps an anchored head."""
    return f"heads/{size}.note"


def receipt_name(size: int, source: str) -> str:
    """Where a claim or a run keeps the receipt of a head from a source: lower-case words and digits, with hyphens.

    Raises:
        UsageError: a source that is named otherwise.
    """
    name = f"anchors/{size}-{source}.json"
    if RECEIPTS.fullmatch(name) is None or len(source) > MAX_SOURCE:
        raise UsageError(f"a receipt from {source[:MAX_SOURCE]!a} has no place in a claim")
    return name


def list_files(root: Path) -> tuple[FileRef, ...]:
    """Every file of a claim folder but `claim.json`, sorted by path, hashed."""
    found = (path for path in root.rglob("*") if path.is_file() and path != root / LISTING)
    refs = [FileRef(p.relative_to(root).as_posix(), p.stat().st_size, hash_file(p)) for p in found]
    return tuple(sorted(refs, key=lambda ref: ref.path))


def write_listing(root: Path) -> None:
    """Write `claim.json` for the files that are in the folder now."""
    files = [ref.to_json() for ref in list_files(root)]
    data = encode({"format": FORMAT, "files": files})
    if len(data) > LISTING_LIMIT or len(files) > MAX_FILES:
        raise FormatError(
            f"{len(files)} files are more than a claim may have: {LISTING} would be {len(data)} bytes",
            hint=f"the limit is {LISTING_LIMIT} bytes: checkpoints at longer intervals make fewer files",
        )
    (root / LISTING).write_bytes(data)


def _check_limits(refs: Sequence[FileRef]) -> None:
    """Refuse names that no claim has, and sizes over the limit of their kind, before anything is hashed."""
    recipe = receipts = 0
    for ref in refs:
        limit = None
        if ref.path.startswith("recipe/"):
            recipe += ref.size
        elif ref.path in (ENTRIES, HEAD):
            limit = ENTRIES_LIMIT if ref.path == ENTRIES else HEAD_LIMIT
        elif MANIFESTS.fullmatch(ref.path):
            limit = MANIFEST_LIMIT
        elif HEADS.fullmatch(ref.path):
            limit = HEAD_LIMIT
        elif ref.path == BEACON or (RECEIPTS.fullmatch(ref.path) and len(ref.path) <= MAX_SOURCE + 32):
            receipts += 1
            limit = RECEIPT_LIMIT
        elif not CHECKPOINTS.fullmatch(ref.path):
            raise FormatError(f"{LISTING}: {ref.path!a} is no file of a claim")
        if limit is not None and ref.size > limit:
            raise FormatError(f"{LISTING}: {ref.path} is {ref.size} bytes, over the limit of {limit}")
    if receipts > MAX_RECEIPTS:
        raise FormatError(f"{LISTING}: {receipts} receipts, over the limit of {MAX_RECEIPTS}")
    if recipe > RECIPE_LIMIT:
        raise FormatError(
            f"{LISTING}: the recipe is {recipe} bytes, over the limit of {RECIPE_LIMIT}",
            hint="a recipe is text: data belongs in the dataset",
        )


def _refuse_unlisted(root: Path, listed: set[str]) -> None:
    folders = {parent.as_posix() for path in listed for parent in Path(path).parents}
    for folder, subfolders, files in os.walk(root, followlinks=False):
        here = Path(folder).relative_to(root)
        for name in (*subfolders, *files):
            path = (here / name).as_posix()
            if (Path(folder) / name).is_symlink():
                raise FormatError(f"{path!a} is a link", hint="a claim holds plain files only")
            known = path in folders if name in subfolders else path in listed or path == LISTING
            if not known:
                raise FormatError(f"{path!a} is in the claim's folder, but {LISTING} does not list it")


def _refuse_unpacked(packed: set[str], listed: set[str]) -> None:
    for name in sorted(packed - listed - {LISTING}):
        raise FormatError(f"{name!a} is in the claim's zip, but {LISTING} does not list it")
    for name in sorted(listed - packed):
        raise MissingFileError(f"{name} is listed in {LISTING}, but is not there", hint="ask the prover for it")
