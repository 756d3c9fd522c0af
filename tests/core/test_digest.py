"""Digests agree with the published ones, whatever the buffer and the process."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import blake3 as reference
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.digest import TAGS, Digest, blake3, blake3_each, blake3_keyed, blake3_of, sha256, tag
from polchain.errors import FormatError, UsageError

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "digest.json").read_text())
LARGE = bytes(range(256)) * 12_000  # 3 MB: above the size from which threads are used


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_published_digests_come_out(vector: dict[str, Any]) -> None:
    data = vector["text"].encode() if "text" in vector else bytes(i % 251 for i in range(vector["length"]))
    expect = vector["expect"]
    if vector["kind"] == "blake3_keyed":
        key = vector["key"].encode()
        assert blake3_keyed(key, data, len(expect) // 2).hex() == expect
        assert blake3_keyed(key, data).hex() == expect[:64]
    else:
        assert str({"blake3": blake3, "sha256": sha256}[vector["kind"]](data)) == expect


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_several_buffers_are_hashed_as_one(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert blake3(*parts) == blake3(whole)
    assert sha256(*parts) == sha256(whole) == Digest("sha256", hashlib.sha256(whole).digest())


@given(st.lists(st.binary(max_size=200)))
def test_many_buffers_are_hashed_each_by_itself(parts: list[bytes]) -> None:
    views = [np.frombuffer(part, dtype=np.uint8).data for part in parts]
    assert blake3_each(parts) == blake3_each(views) == [blake3(part) for part in parts]


@pytest.mark.parametrize("count", [3, 300])
def test_one_of_many_that_has_gaps_is_refused(count: int) -> None:
    with pytest.raises(UsageError):
        blake3_each([b"x", memoryview(bytes(2 * count))[::2]])


def test_threads_do_not_change_a_digest() -> None:
    single = reference.blake3(LARGE, max_threads=1).hexdigest()
    assert blake3(LARGE).hex == single
    assert blake3(LARGE[:100], bytearray(LARGE[100:])).hex == single


@pytest.mark.parametrize("dtype", ["f4", "f2", "i8", "u1", "?"])
def test_an_array_is_hashed_by_its_bytes(dtype: str) -> None:
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    assert blake3(array.data) == blake3(array.tobytes())
    assert sha256(array.data) == sha256(array.tobytes())


def test_an_empty_array_hashes_like_no_bytes() -> None:
    assert blake3(np.zeros((0, 3), "f4").data) == blake3(b"")


def test_an_array_with_gaps_is_refused() -> None:
    with pytest.raises(UsageError, match="contiguous"):
        blake3(np.zeros((4, 4), "f4")[:, ::2].data)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_hashes_a_large_buffer_without_waiting_for_ever() -> None:
    expect = blake3(LARGE)  # starts BLAKE3's threads, which the child will not have
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if blake3(LARGE) == expect else 1)
        finally:
            os._exit(2)
    for _ in range(500):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that did not survive the fork")
    assert os.waitstatus_to_exitcode(status) == 0, "the child came to another digest"


@given(st.sampled_from(["blake3", "sha256"]), st.binary(min_size=32, max_size=32))
def test_a_digest_is_read_as_it_was_written(algorithm: str, value: bytes) -> None:
    digest = Digest(algorithm, value)
    assert Digest.parse(str(digest)) == digest
    assert str(digest) == f"{algorithm}:{digest.hex}"
    assert bytes.fromhex(digest.hex) == value


GOOD = "blake3:" + "0a" * 32


@pytest.mark.parametrize(
    "text",
    [
        "",
        "blake3:",
        GOOD[7:],
        GOOD[:-1],
        GOOD + "0",
        GOOD + "\n",
        " " + GOOD,
        GOOD.upper(),
        GOOD.replace("0a", "0A"),
        GOOD.replace(":", ""),
        GOOD.replace("0", "\u0660"),
        "md5:" + "0a" * 32,
        "blake3:" + "zz" * 32,
    ],
    ids=ascii,
)
def test_text_that_is_not_a_digest_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match=r"^digest: "):
        Digest.parse(text)


@pytest.mark.parametrize(
    ("algorithm", "value"), [("md5", bytes(32)), ("blake3", bytes(31)), ("sha256", bytes(33)), ("sha256", "x" * 32)]
)
def test_a_digest_has_a_known_algorithm_and_thirty_two_bytes(algorithm: str, value: Any) -> None:
    with pytest.raises(FormatError, match=r"^digest: "):
        Digest(algorithm, value)


def test_digests_of_two_algorithms_differ_and_sort_by_algorithm() -> None:
    one, two = Digest("blake3", bytes([9] * 32)), Digest("sha256", bytes(32))
    assert one != Digest("sha256", one.value)
    assert sorted([two, one]) == [one, two]


@pytest.mark.parametrize(("key", "length"), [(b"short", 32), (bytes(33), 32), (bytes(32), -1)])
def test_keyed_hashing_refuses_a_key_or_length_that_makes_no_sense(key: bytes, length: int) -> None:
    with pytest.raises(UsageError):
        blake3_keyed(key, b"data", length)


def test_a_longer_output_continues_a_shorter_one() -> None:
    long = blake3_keyed(bytes(32), b"data", 1000)
    assert len(long) == 1000
    assert long.startswith(blake3_keyed(bytes(32), b"data", 31))
    assert blake3_keyed(bytes(31) + b"\1", b"data") != long[:32], "the key does not matter"


def test_no_tag_begins_another_so_that_tagged_inputs_never_collide() -> None:
    tags = [tag(name) for name in TAGS]
    assert tag("seed") == b"polchain-seed/v1\x00"
    for one in tags:
        assert [other for other in tags if other.startswith(one)] == [one]


def test_an_unknown_tag_is_a_bug_and_the_table_cannot_be_written() -> None:
    with pytest.raises(KeyError):
        tag("unknown")
    with pytest.raises(TypeError):
        TAGS["new"] = b"polchain-new/v1\0"  # type: ignore[index]


@pytest.mark.parametrize("sizes", [[], [0, 1, 64, 65], [5] * 300, [2**20 + 7, 3, 2**19, 2**20, 64], [9] * 5 + [2**21]])
def test_each_of_many_buffers_has_its_own_digest(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    data = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    expected = [blake3(one) for one in data]
    for cores in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert blake3_each(data) == expected
        assert blake3_each(memoryview(one) for one in data) == expected
    assert blake3_of(data) == blake3(b"".join(data))
