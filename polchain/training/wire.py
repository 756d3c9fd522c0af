"""Messages between a verifier and the process that replays, over a stream socket.

    u32 length, little-endian; header: canonical JSON {"type": ..., "sizes": [n, ...], ...}; then the blobs, one by one

The reader treats every message as a stranger's: header and blobs have limits that it sets (`Bounds`), and a stream that
ends or stalls in the middle is an error by name. A state travels as a manifest whose digests are zero, and one blob a
tensor: whoever receives it hashes the bytes himself.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from polchain.core.digest import Digest, blake3_of
from polchain.core.encoding import JSON, Fields, decode, encode
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import TensorRow
from polchain.errors import FormatError, PolchainError, WorkerError
from polchain.training.words import Words, printable

__all__ = ["Bounds", "Hashing", "Message", "Reduce", "receive", "send", "snapshot_of", "state_message"]

HEADER_LIMIT = 64 * 1024 * 1024
BLOB_LIMIT = 1 << 40
MAX_BLOBS = 4_000_000
PIECE = 64 * 1024 * 1024
BUFFER = 1024 * 1024
UNKNOWN = Digest("blake3", bytes(32))

SIZE_DIGITS = 20  # what a blob's size takes in a header
SMALL_HEADER = 1024 * 1024
SPARE_ROWS = 1024
SPARE_BYTES = 64 * 1024 * 1024


# What to keep of a blob, of its size and its pieces; each piece is gone with the next.
Reduce = Callable[[int, Iterator[memoryview]], bytes]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that a message may have. Without numbers: what the format allows.

    Attributes:
        header: bytes of the header.
        blobs: how many blobs.
        first: bytes of the first blob, a manifest.
        blob: bytes of any one blob.
        total: bytes of all blobs together.
    """

    header: int = HEADER_LIMIT
    blobs: int = MAX_BLOBS
    first: int = BLOB_LIMIT
    blob: int = BLOB_LIMIT
    total: int = BLOB_LIMIT

    @classmethod
    def of(cls, blobs: int, total: int, *, first: int | None = None, blob: int | None = None) -> Bounds:
        """So many blobs of so many bytes together, with a header to match."""
        largest = total if blob is None else blob
        header = SMALL_HEADER + SIZE_DIGITS * blobs
        return cls(header, blobs, largest if first is None else first, largest, total)

    @classmethod
    def of_state(cls, manifests: Sequence[Manifest], *, sure: bool = True) -> Bounds:
        """A state that is like these: at most twice the largest, and some.

        Args:
            manifests: states that it is to be like; none for a state of any size.
            sure: whether the state itself is among them; where not, an optimizer's rows may be missing in them.
        """
        if not manifests:
            return cls()
        factor = 2 if sure else 8
        rows = factor * max(len(each.rows) for each in manifests) + SPARE_ROWS
        text = factor * max(len(each.encode()) for each in manifests) + SMALL_HEADER
        data = factor * max(sum(row.size for row in each.tensors()) for each in manifests) + SPARE_BYTES
        return cls.of(rows, text + data, first=text, blob=data)


@dataclass(frozen=True, slots=True)
class Message:
    """A message: its type, its fields, its blobs."""

    type: str
    body: Mapping[str, JSON] = field(default_factory=dict)
    blobs: Sequence[bytes | bytearray | memoryview] = ()

    def fields(self) -> Fields:
        """The fields, for typed reading."""
        return Fields(dict(self.body), f"{self.type} message")


def send(stream: socket.socket, message: Message) -> None:
    """Write one message.

    Raises:
        WorkerError: the other side is gone.
    """
    views = [memoryview(blob).cast("B") for blob in message.blobs]
    sizes: list[JSON] = [len(view) for view in views]
    header = encode({"type": message.type, "sizes": sizes, "body": dict(message.body)})
    try:
        stream.sendall(struct.pack("<I", len(header)) + header)
        for view in views:
            # Nothing is sent for nothing: the other side may have the whole message by then, and be done and gone.
            if view:
                stream.sendall(view)
    except OSError as error:
        raise WorkerError(f"the replaying process went away while it was sent a {message.type} message") from error


def receive(
    stream: socket.socket,
    *,
    bounds: Bounds | None = None,
    deadline: float | None = None,
    words: Words | None = None,
    each: Reduce | None = None,
) -> Message:
    """Read one message.

    Args:
        stream: the socket.
        bounds: the most that it may have.
        deadline: a `time.monotonic()` after which to give up.
        words: what the other side prints, to be emptied meanwhile: who waits for a reader does not answer.
        each: what to keep of each blob in its place.

    Raises:
        WorkerError: the stream ended, the deadline passed, or the message is malformed or over a limit.
    """
    bounds = bounds or Bounds()
    (length,) = struct.unpack("<I", _exactly(stream, 4, deadline, words))
    if length > bounds.header:
        raise WorkerError(f"the replaying process sent a header of {length} bytes, over the limit of {bounds.header}")
    try:
        fields = Fields(
            decode(bytes(_exactly(stream, length, deadline, words)), limit=bounds.header, what="message"), "message"
        )
        kind = fields.str("type", max_length=32)
        sizes = fields.list("sizes", max_items=MAX_BLOBS)
        body = fields.dict("body")
        fields.done()
    except FormatError as error:
        raise WorkerError(f"the replaying process sent nonsense: {error}") from error
    blobs: list[bytes | bytearray] = []
    for size in _checked(sizes, kind, bounds):
        if each is None:
            blobs.append(_exactly(stream, size, deadline, words))
            continue
        pieces = _pieces(stream, size, deadline, words)
        blobs.append(each(size, pieces))
        for _ in pieces:
            pass  # whatever it had no use for
    return Message(kind, body, blobs)


def _checked(sizes: Sequence[JSON], kind: str, bounds: Bounds) -> list[int]:
    checked = []
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise WorkerError("the replaying process sent a size that is not one")
        checked.append(size)
    who = f"the replaying process sent a {printable(kind)!r} message of"
    if len(checked) > bounds.blobs:
        raise WorkerError(f"{who} {len(checked)} parts, over the limit of {bounds.blobs}")
    if sum(checked) > bounds.total:
        raise WorkerError(f"{who} {sum(checked)} bytes, over the limit of {bounds.total}")
    for number, size in enumerate(checked):
        limit = bounds.blob if number else bounds.first
        if size > limit:
            raise WorkerError(f"{who} a part of {size} bytes, over the limit of {limit}")
    return checked


def state_message(kind: str, snapshot: Snapshot, body: Mapping[str, JSON] | None = None) -> Message:
    """A message that carries a state."""
    rows = snapshot.manifest.rows
    blank = Manifest(
        tuple(TensorRow(r.name, r.role, r.dtype, r.shape, UNKNOWN) if isinstance(r, TensorRow) else r for r in rows)
    )
    tensors = blank.tensors()
    text = blank.encode()
    return Message(kind, body or {}, [text, *(snapshot.buffers[row.name] for row in tensors)])


def snapshot_of(message: Message, skip: int = 0) -> tuple[Manifest, dict[str, memoryview]]:
    """The rows (without digests) and buffers of a state message whose first blob after `skip` is its manifest.

    Raises:
        WorkerError: rows and bytes do not fit.
    """
    blobs = list(message.blobs)[skip:]
    try:
        manifest = Manifest.decode(bytes(blobs[0]))
        tensors = manifest.tensors()
        if len(tensors) != len(blobs) - 1 or any(len(b) != r.size for r, b in zip(tensors, blobs[1:], strict=True)):
            raise FormatError("rows and bytes do not fit")
    except (PolchainError, IndexError) as error:
        raise WorkerError(f"the replaying process sent a state that is none: {error}") from error
    return manifest, {row.name: memoryview(blob) for row, blob in zip(tensors, blobs[1:], strict=True)}


class Hashing:
    """For a state message (see `receive`): its rows are kept, and of each tensor no more than its digest.

    A state is as large as training makes it; whoever wants to know which one it is needs one piece of it at a time.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []

    def __call__(self, size: int, pieces: Iterator[memoryview]) -> bytes:
        """What is kept of a blob, in the order in which they come."""
        self._sizes.append(size)
        # By one thread: who asks for digests alone has a training beside.
        return b"".join(map(bytes, pieces)) if len(self._sizes) == 1 else blake3_of(pieces).value

    def snapshot(self, message: Message) -> Snapshot:
        """The rows with the digests of the bytes that came; no tensors.

        Raises:
            WorkerError: rows and bytes do not fit.
        """
        try:
            manifest = Manifest.decode(bytes(message.blobs[0]))
            if [row.size for row in manifest.tensors()] != self._sizes[1:]:
                raise FormatError("rows and bytes do not fit")
        except (PolchainError, IndexError) as error:
            raise WorkerError(f"the replaying process sent a state that is none: {error}") from error
        digests = (Digest("blake3", bytes(value)) for value in message.blobs[1:])
        return Snapshot(manifest.with_digests({row.name: next(digests) for row in manifest.tensors()}), {})


def _exactly(stream: socket.socket, size: int, deadline: float | None, words: Words | None = None) -> bytearray:
    data = bytearray(min(size, PIECE))
    done = 0
    while done < size:
        if done == len(data):
            # Piece by piece: what was announced takes no memory before it is sent.
            data += bytes(min(size - done, PIECE))
        with memoryview(data) as view:
            _fill(stream, view[done:], deadline, words)
        done = len(data)
    return data


def _pieces(stream: socket.socket, size: int, deadline: float | None, words: Words | None) -> Iterator[memoryview]:
    """So many bytes of the stream, in one buffer after the other."""
    buffer = memoryview(bytearray(min(size, BUFFER)))
    for start in range(0, size, BUFFER):
        piece = buffer[: min(size - start, BUFFER)]
        _fill(stream, piece, deadline, words)
        yield piece


def _fill(stream: socket.socket, view: memoryview, deadline: float | None, words: Words | None) -> None:
    stream.settimeout(None)
    done = 0
    while done < len(view):
        if deadline is not None or words is not None:
            _await(stream, deadline, words)
        try:
            count = stream.recv_into(view[done:])
        except OSError as error:
            raise WorkerError("the replaying process went away") from error
        if count == 0:
            raise WorkerError("the replaying process ended in the middle of an answer")
        done += count


def _await(stream: socket.socket, deadline: float | None, words: Words | None) -> None:
    """Wait until the stream has something, and meanwhile take what is printed."""
    waiting = select.poll()
    waiting.register(stream, select.POLLIN)
    if words is not None and words.open:
        waiting.register(words, select.POLLIN)
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise WorkerError("the replaying process took too long", hint="raise the time limit with --timeout")
        found = {number for number, _ in waiting.poll(None if left is None else 1000 * min(left, 86_400))}
        if words is not None and words.fileno() in found:
            words.drain()
            if not words.open:
                waiting.unregister(words)
        if stream.fileno() in found:
            return
