"""Messages between a verifier and the process that replays, over a stream socket.

    u32 length, little-endian; header: canonical JSON {"type": ..., "sizes": [n, ...], ...}; then the blobs, one by one

The reader treats every message as a stranger's: header and blobs have limits that it sets, and a stream that ends or
stalls in the middle is an error by name. A state travels as a manifest whose digests are zero, and one blob a tensor:
whoever receives it hashes the bytes himself.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from polchain.core.digest import Digest
from polchain.core.encoding import JSON, Fields, decode, encode
from polchain.core.manifest import Manifest, Snapshot, TensorRow
from polchain.errors import FormatError, PolchainError, WorkerError

__all__ = ["Message", "receive", "send", "snapshot_of", "state_message"]

HEADER_LIMIT = 64 * 1024 * 1024
BLOB_LIMIT = 1 << 40
MAX_BLOBS = 4_000_000
PIECE = 64 * 1024 * 1024
UNKNOWN = Digest("blake3", bytes(32))


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
    sizes: list[JSON] = [len(memoryview(blob).cast("B")) for blob in message.blobs]
    header = encode({"type": message.type, "sizes": sizes, "body": dict(message.body)})
    try:
        stream.sendall(struct.pack("<I", len(header)) + header)
        for blob in message.blobs:
            stream.sendall(memoryview(blob).cast("B"))
    except OSError as error:
        raise WorkerError(f"the replaying process went away while it was sent a {message.type} message") from error


def receive(stream: socket.socket, *, limit: int = BLOB_LIMIT, deadline: float | None = None) -> Message:
    """Read one message.

    Args:
        stream: the socket.
        limit: the most bytes that all blobs together may have.
        deadline: a `time.monotonic()` after which to give up.

    Raises:
        WorkerError: the stream ended, the deadline passed, or the message is malformed or over a limit.
    """
    (length,) = struct.unpack("<I", _exactly(stream, 4, deadline))
    if length > HEADER_LIMIT:
        raise WorkerError(f"the replaying process sent a header of {length} bytes")
    try:
        fields = Fields(
            decode(bytes(_exactly(stream, length, deadline)), limit=HEADER_LIMIT, what="message"), "message"
        )
        kind = fields.str("type", max_length=32)
        sizes = fields.list("sizes", max_items=MAX_BLOBS)
        body = fields.dict("body")
        fields.done()
    except FormatError as error:
        raise WorkerError(f"the replaying process sent nonsense: {error}") from error
    total = 0
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise WorkerError("the replaying process sent a size that is not one")
        total += size
    if total > limit:
        raise WorkerError(f"the replaying process sent {total} bytes, over the limit of {limit}")
    blobs = [_exactly(stream, size, deadline) for size in sizes if isinstance(size, int)]
    return Message(kind, body, blobs)


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


def _exactly(stream: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray()
    done = 0
    while done < size:
        if done == len(data):
            # Piece by piece: what was announced takes no memory before it is sent.
            data += bytes(min(size - done, PIECE))
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise WorkerError("the replaying process took too long", hint="raise the time limit with --timeout")
            stream.settimeout(left)
        else:
            stream.settimeout(None)
        try:
            with memoryview(data) as view:
                count = stream.recv_into(view[done:])
        except TimeoutError as error:
            raise WorkerError(
                "the replaying process took too long", hint="raise the time limit with --timeout"
            ) from error
        except OSError as error:
            raise WorkerError("the replaying process went away") from error
        if count == 0:
            raise WorkerError("the replaying process ended in the middle of an answer")
        done += count
    return data
