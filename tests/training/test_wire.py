"""Messages on a socket: whatever comes is a message, or a WorkerError by name."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.digest import Digest, blake3
from polchain.core.encoding import JSON, encode
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import AliasRow, ScalarRow, TensorRow
from polchain.errors import WorkerError
from polchain.training.snapshot import rehash
from polchain.training.wire import (
    BUFFER,
    HEADER_LIMIT,
    Bounds,
    Hashing,
    Message,
    receive,
    send,
    snapshot_of,
    state_message,
)
from polchain.training.words import Words


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def through(message: Message) -> Message:
    left, right = socket.socketpair()
    with left, right:
        sender = threading.Thread(target=send, args=(left, message))
        sender.start()
        received = receive(right, deadline=time.monotonic() + 20)
        sender.join()
    return received


def heard(data: bytes, **options: object) -> Message:
    """What a reader makes of these bytes, after which the stream ends."""
    left, right = socket.socketpair()
    with left, right:
        left.sendall(data)
        left.close()
        return receive(right, **options)  # type: ignore[arg-type]


def framed(header: JSON, *blobs: bytes) -> bytes:
    text = encode(header)
    return struct.pack("<I", len(text)) + text + b"".join(blobs)


def test_a_message_arrives_as_it_was_sent() -> None:
    large = bytes(range(256)) * 4096 * 3
    message = Message("closing", {"step": 3, "loss": "0x1p+0"}, [b"", b"abc", bytearray(large), memoryview(large)])
    found = through(message)
    assert (found.type, dict(found.body)) == ("closing", {"step": 3, "loss": "0x1p+0"})
    assert [bytes(blob) for blob in found.blobs] == [b"", b"abc", large, large]


def test_a_blob_larger_than_a_piece_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polchain.training.wire.PIECE", 10)
    data = bytes(range(95))
    assert bytes(through(Message("x", {}, [data])).blobs[0]) == data


SOUND = framed({"type": "x", "sizes": [3, 2], "body": {"a": 1}}, b"abc", b"de")


def test_every_truncation_is_an_error_by_name() -> None:
    assert [bytes(blob) for blob in heard(SOUND).blobs] == [b"abc", b"de"]
    for length in range(len(SOUND)):
        with pytest.raises(WorkerError, match="ended in the middle"):
            heard(SOUND[:length])


@given(st.binary(max_size=100))
def test_nonsense_is_an_error_by_name(data: bytes) -> None:
    with pytest.raises(WorkerError):
        heard(data)


@given(st.integers(4, len(SOUND) - 6), st.integers(1, 255))
def test_a_flipped_byte_of_a_header_is_another_message_or_an_error(place: int, flip: int) -> None:
    changed = bytearray(SOUND)
    changed[place] ^= flip
    try:
        found = heard(bytes(changed) + bytes(99))
    except WorkerError:
        return
    assert (found.type, dict(found.body), [len(blob) for blob in found.blobs]) != ("x", {"a": 1}, [3, 2])


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"type": "x", "sizes": []},
        {"type": "x", "sizes": [], "body": {}, "more": 1},
        {"type": 1, "sizes": [], "body": {}},
        {"type": "x" * 33, "sizes": [], "body": {}},
        {"type": "x", "sizes": {}, "body": {}},
        {"type": "x", "sizes": [-1], "body": {}},
        {"type": "x", "sizes": [True], "body": {}},
        {"type": "x", "sizes": ["1"], "body": {}},
        {"type": "x", "sizes": [], "body": []},
    ],
    ids=str,
)
def test_a_header_is_strict(header: JSON) -> None:
    with pytest.raises(WorkerError):
        heard(framed(header, bytes(10)))


def test_a_header_that_is_not_canonical_is_refused() -> None:
    text = b'{"type": "x", "sizes": [], "body": {}}'
    with pytest.raises(WorkerError, match="nonsense"):
        heard(struct.pack("<I", len(text)) + text)


def test_sizes_have_limits_and_take_no_memory_in_advance() -> None:
    with pytest.raises(WorkerError, match="a header of"):
        heard(struct.pack("<I", HEADER_LIMIT + 1))
    with pytest.raises(WorkerError, match="over the limit of 4"):
        heard(SOUND, bounds=Bounds(total=4))
    heard(SOUND, bounds=Bounds(total=5))
    with pytest.raises(WorkerError, match="over the limit"):
        heard(framed({"type": "x", "sizes": [2**50], "body": {}}))
    with pytest.raises(WorkerError, match="ended in the middle"):
        heard(framed({"type": "x", "sizes": [2**39], "body": {}}, b"abc"))


def test_the_bounds_of_a_state_follow_from_states_like_it() -> None:
    row = TensorRow("model/w", "parameter", "F32", (1000,), blake3(b""))
    like = Manifest((row,))
    bounds = Bounds.of_state([Manifest(()), like])
    assert bounds.total > 2 * 4000
    assert Bounds.of_state([like], sure=False).total > bounds.total
    assert Bounds.of_state([]) == Bounds()
    for sizes, said in (
        ([10, 1 << 30], "bytes, over the limit"),
        ([bounds.first + 1, 0], "a part of"),
        ([0] * (bounds.blobs + 1), "parts, over the limit"),
    ):
        with pytest.raises(WorkerError, match=said):
            heard(framed({"type": "x", "sizes": sizes, "body": {}}), bounds=bounds)
    with pytest.raises(WorkerError, match="a header of"):
        heard(struct.pack("<I", bounds.header + 1), bounds=bounds)


def test_blobs_are_reduced_as_they_come(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    send(left, Message("samples", {}, [b"one", b"three"]))
    assert receive(right, each=lambda size, _: b"%d" % size).blobs == [b"3", b"5"]


@pytest.mark.parametrize("size", [0, 1, BUFFER - 1, BUFFER, 2 * BUFFER, 3 * BUFFER + 7])
def test_a_blob_of_any_size_comes_in_pieces(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    left, right = pair
    blob = random.Random(size).randbytes(size)
    speaker = threading.Thread(target=send, args=(left, Message("x", {}, [blob, blob, b"end"])))
    speaker.start()
    hashing = Hashing()
    assert receive(right, each=hashing).blobs == [blob, blake3(blob).value, blake3(b"end").value]
    speaker.join()


def test_what_is_printed_is_taken_while_an_answer_is_awaited(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    words = Words(kept=1000)

    def talk() -> None:
        for number in range(100):
            os.write(words.writer, b"spam " * 1000 + b"\n%d\x1b[2J\n" % number)
        send(left, Message("x"))

    speaker = threading.Thread(target=talk)
    speaker.start()
    assert receive(right, deadline=time.monotonic() + 20, words=words).type == "x"
    speaker.join()
    assert words.last() == "; its last words: 99?[2J"
    words.close()
    words.close()


def test_a_reader_does_not_wait_for_ever(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    begun = time.monotonic()
    with pytest.raises(WorkerError, match="took too long") as caught:
        receive(right, deadline=begun + 0.2)
    assert "--timeout" in caught.value.hint
    left.sendall(SOUND[:20])
    with pytest.raises(WorkerError, match="took too long"):
        receive(right, deadline=time.monotonic() + 0.2)
    with pytest.raises(WorkerError, match="took too long"):
        receive(right, deadline=begun)
    assert time.monotonic() - begun < 5


def test_a_writer_whose_reader_is_gone_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    right.close()
    with pytest.raises(WorkerError, match="went away while it was sent a job message"):
        send(left, Message("job", {}, [bytes(1 << 20)]))


# --- states


def snapshot() -> Snapshot:
    data = {"model/a": bytes(range(8)), "model/b": b"", "optimizer/a/m": bytes(4)}
    rows = [
        TensorRow("model/a", "parameter", "F32", (2,), blake3(data["model/a"])),
        TensorRow("model/b", "buffer", "F32", (0, 3), blake3(b"")),
        AliasRow("model/tied", "model/a"),
        TensorRow("optimizer/a/m", "state", "F32", (), blake3(data["optimizer/a/m"])),
        ScalarRow("schedule/lr", 0.1),
    ]
    return Snapshot(Manifest.of(rows), {name: memoryview(text) for name, text in data.items()})


def test_a_state_arrives_and_its_digests_are_made_anew() -> None:
    original = snapshot()
    message = through(state_message("closing", original, {"step": 3}))
    assert message.body == {"step": 3}
    blank, buffers = snapshot_of(message)
    assert all(row.digest == Digest("blake3", bytes(32)) for row in blank.tensors())
    assert rehash(blank, buffers) == original.manifest
    assert {name: bytes(data) for name, data in buffers.items()} == {
        name: bytes(data) for name, data in original.buffers.items()
    }
    job = Message("job", {}, [b"indices", *message.blobs])
    assert snapshot_of(job, skip=1)[0] == blank


def test_a_state_whose_rows_and_bytes_do_not_fit_is_refused() -> None:
    rows, *tensors = state_message("closing", snapshot()).blobs
    for blobs in (
        [],
        [b"rows"],
        [rows],
        [rows, *tensors[:-1]],
        [rows, *tensors, b""],
        [rows, *tensors[::-1]],
        [rows, bytes(tensors[0])[:-1], *tensors[1:]],
    ):
        with pytest.raises(WorkerError, match="a state that is none"):
            snapshot_of(Message("closing", {}, blobs))


def test_who_has_read_all_of_a_message_may_be_gone_before_its_empty_parts_are_sent() -> None:
    class Leaving:
        """A stream whose other side goes away once it has the header."""

        sent = b""

        def sendall(self, data: bytes) -> None:
            if self.sent:
                raise BrokenPipeError
            self.sent += bytes(data)

    stream = Leaving()
    send(stream, Message("job", {}, [b"", bytearray()]))  # type: ignore[arg-type]
    assert stream.sent
    with pytest.raises(WorkerError, match="went away"):
        send(stream, Message("job", {}, [b"", b"x"]))  # type: ignore[arg-type]
