r"""The results file: what an interrupted verification has replayed already.

    {"draw":"sha256:...","kind":"verification","mac":"...","origin":"...","polchain":"...","root":"...", ...}
    {"kind":"exact","mac":"...","seconds":"0x1.8p-4","segment":17}
    ...

Canonical JSON, one object a line. The first line says which verification it is of; each of the others that a segment
was reproduced exactly. Nothing else is kept: what was not exact is replayed again. Each line is written and synced
before the next result is looked at, so a kill loses what was under way, and tears the last line at most.

It is the verifier's own file. Whoever could write it could say VERIFIED, so it is private (0600), and each line has

    mac = BLAKE3(key = the user's, tag results + the mac before (32 zero bytes in the first line) + the line without it)

with a key that lies in the user's state folder: a file that somebody else sends along is refused.
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType

from platformdirs import user_state_path

from polchain.core.digest import blake3_keyed, sha256, tag
from polchain.core.encoding import JSON, Fields, decode, encode, hex_float
from polchain.errors import FormatError, StorageError, UsageError
from polchain.training.fingerprint import Setting
from polchain.verifier.challenge import Challenge
from polchain.verifier.integrity import IntactClaim

__all__ = ["Belonging", "Results", "results_key"]

LINE_LIMIT = 2048
FILE_LIMIT = 1 << 30
KEY_SIZE = 32
MAC_SIZE = 32
SEED = re.compile("[0-9a-f]{64}")
HINT = "name a new file, or delete this one to begin again"
# What a difference in each field of the first line means to the user.
OTHER = {
    "origin": "of another log",
    "size": "of another length of this log",
    "root": "of another log with this name",
    "seed": "drawn from another seed",
    "draw": "another draw: were --fraction, --confidence, --budget, --full or the policy others then?",
    "recipe": "of another recipe",
    "vouched": "begun when the recipe was vouched for, or not, unlike now",
    "sandbox": "begun in another sandbox, or in none",
    "setting": "replayed with other threads or instruction sets",
    "calibration": "begun with another calibration, or with none, unlike now",
    "polchain": "begun by another version of polchain",
}


@dataclass(frozen=True, slots=True)
class Belonging:
    """Which verification a file is of. A result holds for nothing else.

    Attributes:
        origin, size, root: the claim's head.
        seed: the challenge's.
        draw: digest of the drawn steps and of the picks with their reasons.
        recipe: digest of the recipe.
        vouched: whether the verifier vouched for it.
        sandbox: what it is run in.
        setting: what it is replayed with.
        calibration: digest of what is tolerated; empty where nothing is.
        polchain: the version.
    """

    origin: str
    size: int
    root: str
    seed: str
    draw: str
    recipe: str
    vouched: bool
    sandbox: str
    setting: str
    calibration: str
    polchain: str

    @classmethod
    def of(
        cls,
        intact: IntactClaim,
        challenge: Challenge,
        *,
        vouched: bool,
        sandbox: str,
        setting: Setting,
        calibration: str = "",
    ) -> Belonging:
        """This verification."""
        from polchain import __version__

        recipe = intact.genesis.recipe
        return cls(
            intact.head.origin,
            intact.head.size,
            intact.head.root.hex(),
            challenge.seed.hex(),
            _draw(challenge),
            str(recipe.program()) if recipe is not None else "",
            vouched,
            sandbox,
            repr(setting),
            calibration,
            __version__,
        )

    @classmethod
    def parse(cls, found: Fields) -> Belonging:
        """Read the first line's fields."""
        value = cls(
            origin=found.str("origin"),
            size=found.int("size"),
            root=found.str("root"),
            seed=found.str("seed"),
            draw=found.str("draw"),
            recipe=found.str("recipe"),
            vouched=found.bool("vouched"),
            sandbox=found.str("sandbox"),
            setting=found.str("setting"),
            calibration=found.str("calibration"),
            polchain=found.str("polchain"),
        )
        if SEED.fullmatch(value.seed) is None:
            raise FormatError("the seed is not 32 bytes")
        return value

    def to_json(self) -> dict[str, JSON]:
        """The first line's fields."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


class Results:
    """An open results file. A context manager; nobody else may have it open.

    Args:
        path: the file; a new one is made.
        claim: the claim's folder, in which it may not lie.
        key: 32 bytes for the macs; the user's own where None.

    Raises:
        UsageError: it is no results file of this user, it is damaged, or another verification writes to it.
        StorageError: the user's key cannot be read or made.
    """

    def __init__(self, path: Path, claim: Path, key: bytes | None = None) -> None:
        self.path = path
        if path.resolve().is_relative_to(claim.resolve()):
            raise UsageError(f"{path} lies in the claim, which may hold nothing that is not listed", hint=HINT)
        self._key = results_key() if key is None else key
        self._belonging: Belonging | None = None
        self._exact: dict[int, float] = {}
        self._mac = bytes(MAC_SIZE)
        self._whole = 0
        self._file = _open(path)
        try:
            self._read()
        except FormatError as error:
            self.close()
            raise UsageError(f"{path} is damaged, or no results file: {error}", hint=HINT) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and let others have it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def seed(self) -> bytes | None:
        """The challenge seed of the verification that the file is of; None where it is new."""
        return bytes.fromhex(self._belonging.seed) if self._belonging is not None else None

    def begin(self, belonging: Belonging) -> Mapping[int, float]:
        """Go on with a verification; the seconds of what is done already, by the index of the segment.

        Raises:
            UsageError: the file is of another one.
            StorageError: the disk refused.
        """
        if self._belonging is None:
            self._append({"kind": "verification", **belonging.to_json()})
            self._belonging = belonging
        was, now = self._belonging.to_json(), belonging.to_json()
        for name, meaning in OTHER.items():
            if was[name] != now[name]:
                raise UsageError(f"{self.path} belongs to another verification, {meaning}", hint=HINT)
        return dict(self._exact)

    def add(self, segment: int, seconds: float) -> None:
        """Keep that a segment was reproduced exactly.

        Raises:
            StorageError: the disk refused.
        """
        self._append({"kind": "exact", "segment": segment, "seconds": hex_float(seconds)})
        self._exact[segment] = seconds

    def _read(self) -> None:
        for line in self._lines():
            value = decode(line, limit=LINE_LIMIT, what="a line")
            found = Fields(value, "a line")
            mac = found.str("mac")
            assert isinstance(value, dict)
            self._mac = self._mac_of(encode({name: item for name, item in value.items() if name != "mac"}))
            if not hmac.compare_digest(self._mac.hex().encode(), mac.encode()):
                raise FormatError("a line that this user's polchain did not write there")
            kind = found.str("kind")
            if kind != ("exact" if self._belonging is not None else "verification"):
                raise FormatError("lines out of order")
            if self._belonging is None:
                self._belonging = Belonging.parse(found)
            else:
                self._exact[found.int("segment")] = found.float("seconds")
            found.done()
            self._whole += len(line) + 1

    def _lines(self) -> Iterator[bytes]:
        """The whole lines. A torn one at the end is none, but a torn first line is no results file's."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            while line := file.readline(LINE_LIMIT + 1):
                if not line.endswith(b"\n"):
                    if len(line) > LINE_LIMIT or self._belonging is None:
                        raise FormatError("a line without an end")
                    return
                yield line[:-1]

    def _append(self, body: dict[str, JSON]) -> None:
        mac = self._mac_of(encode(body))
        line = encode({**body, "mac": mac.hex()}) + b"\n"
        try:
            os.ftruncate(self._file, self._whole)  # a torn line
            if os.pwrite(self._file, line, self._whole) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written to: {error.strerror}") from error
        self._mac = mac
        self._whole += len(line)

    def _mac_of(self, body: bytes) -> bytes:
        return blake3_keyed(self._key, tag("results") + self._mac + body, MAC_SIZE)


def results_key() -> bytes:
    """The user's key for results files, made when it is first needed.

    Raises:
        StorageError: it cannot be read or written.
    """
    path = user_state_path("polchain") / "results.key"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = path.with_name(f".results.{os.getpid()}.{secrets.token_hex(4)}")
            made = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(made, secrets.token_bytes(KEY_SIZE))
                os.fsync(made)
                with suppress(FileExistsError):  # another process was faster
                    os.link(fresh, path)
            finally:
                os.close(made)
                fresh.unlink()
        key = path.read_bytes()
    except OSError as error:
        raise StorageError(f"the key for results files, {path}: {error.strerror}") from error
    if len(key) != KEY_SIZE:
        raise StorageError(f"{path} is not a key of {KEY_SIZE} bytes", hint="delete it; results files are then void")
    return key


def _open(path: Path) -> int:
    """The file, opened or made, and locked: a private one of this user's."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        opened = os.open(path, flags, 0o600)
    except OSError as error:
        raise UsageError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is not a file")
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise UsageError(f"{path} is not yours alone (0600): others could have written results into it", hint=HINT)
        if found.st_size > FILE_LIMIT:
            raise UsageError(f"{path} is {found.st_size} bytes, over the limit of {FILE_LIMIT}", hint=HINT)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{path} is in use: another verification writes to it") from error
    except BaseException:
        os.close(opened)
        raise
    return opened


def _draw(challenge: Challenge) -> str:
    steps: list[JSON] = list(challenge.draws)
    picks: list[JSON] = [[pick.segment.index, list(pick.reasons)] for pick in challenge.picks]
    budget = hex_float(challenge.budget) if challenge.budget is not None else "none"
    return str(sha256(encode({"budget": budget, "draws": steps, "picks": picks, "reserved": challenge.reserved})))
