"""Entries: each has one text, every field counts, and nothing else is read."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core import entries as entries_module
from polchain.core import merkle
from polchain.core.binding import Binding
from polchain.core.digest import Digest, sha256, tag
from polchain.core.encoding import encode
from polchain.core.entries import (
    ENTRY_LIMIT,
    SEED_SOURCES,
    BeaconRef,
    CheckpointEntry,
    Entry,
    Final,
    KeyChange,
    Start,
    Update,
    chain_base,
    encode_entry,
    extend_chain,
    leaf_data,
    parse_entry,
)
from polchain.core.genesis import PRECISIONS, Configuration, DatasetRef, FileRef, Genesis, RecipeRef, safe_path
from polchain.core.keys import PrivateKey, PublicKey
from polchain.core.rows import GROUPS
from polchain.errors import EvidenceError, FormatError

KEYS = [PrivateKey.generate().public for _ in range(3)]


def digest(algorithm: str = "sha256") -> st.SearchStrategy[Digest]:
    return st.binary(min_size=32, max_size=32).map(lambda value: Digest(algorithm, value))


keys = st.sampled_from(KEYS)
paths = (
    st.lists(st.text("abc._-é", min_size=1, max_size=5), min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda path: not any(part in (".", "..") for part in path.split("/")))
)
files = st.builds(FileRef, paths, st.integers(0, 2**53 - 1), digest("blake3"))
some_files = st.lists(files, max_size=3, unique_by=lambda ref: ref.path).map(
    lambda refs: tuple(sorted(refs, key=lambda ref: ref.path))
)
words = st.lists(st.text(max_size=8), max_size=3).map(tuple)


@st.composite
def recipes(draw: st.DrawFn) -> RecipeRef:
    refs = draw(some_files)
    if draw(st.booleans()) or not refs:
        return RecipeRef(draw(st.sampled_from(["train", "a.b_c"])), True, draw(words), refs, draw(words))
    return RecipeRef(draw(st.sampled_from(refs)).path, False, draw(words), refs, draw(words))


intervals = st.lists(
    st.tuples(st.integers(1, 99), st.integers(1, 50)), max_size=3, unique_by=lambda pair: pair[0]
).flatmap(lambda pairs: st.integers(1, 50).map(lambda k: ((0, k), *sorted(pairs))))
configurations = st.builds(
    Configuration, st.integers(1, 300), st.integers(1, 64), intervals, st.sampled_from(PRECISIONS), st.booleans()
)
datasets = st.builds(DatasetRef, st.integers(1, 2**40), digest(), st.none() | digest())
owned = st.fixed_dictionaries({"recipe": recipes(), "dataset": datasets, "configuration": configurations})
bindings = st.builds(
    Binding,
    st.binary(min_size=20, max_size=20),
    st.binary(min_size=64, max_size=64),
    st.binary(min_size=65, max_size=65),
)
optional = st.fixed_dictionaries(
    {},
    optional={
        "recovery": keys,
        "ethereum": bindings,
        "task": digest("blake3"),
        "parent": digest(),
        "prev": digest(),
    },
)


def genesis(run_id: bytes, key: PublicKey, parts: dict[str, Any], more: dict[str, Any], chain: int) -> Genesis:
    bound = {"beacon": chain} if parts and "ethereum" in more else {}
    return Genesis(run_id=run_id, key=key, **parts, **more, **bound)


geneses = st.builds(
    genesis,
    st.binary(min_size=16, max_size=16),
    keys,
    owned | st.just({}),
    optional,
    st.integers(1, 2**53 - 1),
)
roots = st.fixed_dictionaries({group: digest() for group in GROUPS})
positive = st.floats(0, allow_infinity=False, allow_nan=False).map(abs)
losses = st.none() | st.floats(allow_infinity=False, allow_nan=False)
checkpoints = st.builds(
    CheckpointEntry,
    digest(),
    st.integers(0, 2**40),
    roots,
    digest(),
    st.none() | digest("blake3"),
    st.none() | st.builds(Update, positive, positive),
    losses,
)
fingerprints = st.dictionaries(
    st.text("abc", max_size=4), st.text(max_size=9) | st.integers(-9, 9) | st.booleans(), max_size=4
)
beacons = st.builds(BeaconRef, st.integers(1, 2**53 - 1), st.text(max_size=9), st.integers(0, 2**53 - 1))
seeds = st.sampled_from([source for source in SEED_SOURCES if source != "beacon"]).flatmap(
    lambda source: st.tuples(st.just(source), st.none())
) | st.tuples(st.just("beacon"), beacons)
starts = st.builds(
    lambda prev, seed, value, fingerprint: Start(prev, seed[0], value, fingerprint, seed[1]),
    digest(),
    seeds,
    st.binary(min_size=32, max_size=32),
    fingerprints,
)
finals = st.builds(Final, digest(), st.integers(0, 2**40), roots, digest(), some_files)
changes = st.builds(KeyChange, digest(), st.sampled_from(["rotate", "revoke"]), keys)
entries = geneses | starts | checkpoints | finals | changes


@given(entries)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    data = encode_entry(entry)
    again = parse_entry(data)
    assert again == entry
    assert type(again) is type(entry)
    assert encode_entry(again) == data


@given(checkpoints, st.data())
def test_the_short_way_to_a_checkpoint_entry_is_the_long_one(entry: CheckpointEntry, data: st.DataObject) -> None:
    written = encode_entry(entry)
    for text in (written, *(changed(written, data) for _ in range(3))):
        short = entries_module._parse_plain(text)
        if short is not None:
            assert repr(short) == repr(entries_module._parse_any(text)), text


def test_most_checkpoint_entries_take_the_short_way() -> None:
    root, chain = sha256(b"root"), sha256(b"chain")
    first = CheckpointEntry(root, 0, dict.fromkeys(GROUPS, root), chain)
    later = replace(first, step=7, batches=Digest("blake3", bytes(32)), update=Update(0.25, 1e-9), loss=-0.1)
    for entry in (first, later, replace(later, step=2**40), replace(later, loss=0.0)):
        assert entries_module._parse_plain(encode_entry(entry)) == entry
    for entry in (replace(later, loss=2.0**1023), replace(later, step=2**40 - 1, update=None)):
        assert parse_entry(encode_entry(entry)) == entry


def changed(text: bytes, data: st.DataObject) -> bytes:
    """The text with a stretch of it replaced by another stretch, or by a few bytes."""
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 80)))
    other = data.draw(st.integers(0, len(text) - 1))
    piece = data.draw(st.sampled_from([b"", b"0", b"-", b"f", b"p+999", b"00", text[other : other + end - start]]))
    return text[:start] + piece + text[end:]


@given(entries, st.data())
def test_a_flipped_byte_is_refused_or_is_another_entry(entry: Entry, data: st.DataObject) -> None:
    text = bytearray(encode_entry(entry))
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    try:
        changed = parse_entry(bytes(text))
    except EvidenceError:
        return
    assert encode_entry(changed) == bytes(text)
    assert changed != entry


@given(st.binary(max_size=200))
def test_bytes_that_are_no_entry_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_entry(data)


SHA, BLAKE = "sha256:" + "ab" * 32, "blake3:" + "cd" * 32
FILE = {"path": "train.py", "size": 3, "digest": BLAKE}
STATE = {"step": 3, "state": dict.fromkeys(GROUPS, SHA), "chain": SHA}
SOUND: dict[str, dict[str, Any]] = {
    "genesis": {
        "version": 1,
        "run_id": "0a" * 16,
        "key": str(KEYS[0]),
        "recovery": str(KEYS[1]),
        "task": BLAKE,
        "parent": SHA,
        "recipe": {"entry": "train.py", "module": False, "arguments": ["a"], "files": [FILE], "imports": ["torch==2"]},
        "dataset": {"samples": 3, "root": SHA},
        "configuration": {
            "steps": 9,
            "batch_size": 2,
            "interval": [[0, 3]],
            "precision": "fp32",
            "deterministic": True,
        },
    },
    "start": {"source": "prover", "value": "0a" * 32, "fingerprint": {"threads": 2}},
    "checkpoint": STATE
    | {"batches": BLAKE, "update": {"l2": "0x1.0000000000000p+0", "linf": "0x0.0p+0"}, "loss": "0x0.0p+0"},
    "final": STATE | {"files": [FILE]},
    "rotate": {"key": str(KEYS[2])},
}
OPTIONAL = {("recovery",), ("task",), ("parent",), ("batches",), ("update",), ("loss",), ("fingerprint", "threads")}


def parse(kind: str, value: dict[str, Any]) -> Entry:
    return parse_entry(encode({"kind": kind, "prev": SHA} | value))


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found: list[tuple[Any, ...]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(*before, key), *places(item, (*before, key))]
    return found


def at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    at(changed, place[:-1])[place[-1]] = new
    return changed


def may_be(place: tuple[Any, ...], value: Any) -> bool:
    """Whether a value is a sound one at this place, however odd."""
    return (
        place[-1] in ("module", "deterministic", "threads")
        and type(value) in (bool, int, str)
        and (place[-1] == "threads" or type(value) is bool)
        and value != "x" * 5000
    ) or (
        (place[-1] in ("arguments", "imports") and value == [])
        or (place == ("files",) and value == [])
        or (place == ("files", 0, "path") and value == "wrong")
        or (place[:2] in (("recipe", "arguments"), ("recipe", "imports")) and type(value) is str and len(value) < 256)
        or (place[-1] == "fingerprint" and value == {})
    )


@pytest.mark.parametrize("kind", SOUND)
def test_every_field_is_needed_of_its_type_and_alone(kind: str) -> None:
    sound = SOUND[kind]
    assert json.loads(encode_entry(parse(kind, sound))) == {"kind": kind, "prev": SHA} | sound
    for place in [*places(sound), ("prev",), ("kind",)]:
        whole = {"kind": kind, "prev": SHA} | sound
        held = at(whole, place)
        wrong: list[Any] = [[], {}, -1, "wrong", "x" * 5000, SHA.upper(), True]
        for new in [w for w in wrong if not (type(w) is type(held) and w == held) and not may_be(place, w)]:
            with pytest.raises(EvidenceError):
                parse_entry(encode(put(whole, place, new)))
        if isinstance(place[-1], str) and place not in OPTIONAL:
            missing = copy.deepcopy(whole)
            del at(missing, place[:-1])[place[-1]]
            with pytest.raises(FormatError):
                parse_entry(encode(missing))
        if isinstance(held, dict) and place[-1] != "fingerprint":
            with pytest.raises(FormatError, match="unknown field"):
                parse_entry(encode(put(whole, (*place, "more"), 1)))
    with pytest.raises(FormatError, match="unknown field"):
        parse(kind, sound | {"more": 1})


WRONG: list[tuple[str, tuple[Any, ...], Any]] = [
    ("genesis", ("version",), 2),
    ("genesis", ("run_id",), "0A" * 16),
    ("genesis", ("key",), "ed25519:" + "00" * 32),
    ("genesis", ("key",), "ed25519:" + "01" + "00" * 31),
    ("genesis", ("key",), KEYS[0].openssh()),
    ("genesis", ("dataset", "samples"), 0),
    ("genesis", ("dataset", "root"), BLAKE),
    ("genesis", ("configuration", "steps"), 0),
    ("genesis", ("configuration", "batch_size"), 0),
    ("genesis", ("configuration", "interval"), []),
    ("genesis", ("configuration", "interval"), [[1, 3]]),
    ("genesis", ("configuration", "interval"), [[0, 3], [0, 4]]),
    ("genesis", ("configuration", "interval"), [[0, 3], [9, 4], [5, 1]]),
    ("genesis", ("configuration", "interval"), [[0, 0]]),
    ("genesis", ("configuration", "interval"), [[0, True]]),
    ("genesis", ("configuration", "interval"), [[0, 3, 4]]),
    ("genesis", ("configuration", "precision"), "fp8"),
    ("genesis", ("recipe", "entry"), "other.py"),
    ("genesis", ("recipe",), SOUND["genesis"]["recipe"] | {"entry": "my-train", "module": True}),
    ("genesis", ("recipe", "files"), [FILE, FILE]),
    ("genesis", ("recipe", "files"), [FILE, FILE | {"path": "a.py"}]),
    ("genesis", ("recipe", "files", 0, "path"), "../train.py"),
    ("start", ("source",), "dice"),
    ("start", ("value",), "0A" * 32),
    ("start", ("fingerprint", "threads"), [1]),
    ("start", ("fingerprint", "threads"), "x" * 1025),
    ("checkpoint", ("step",), 2**41),
    ("checkpoint", ("chain",), BLAKE),
    ("checkpoint", ("state", "model"), BLAKE),
    ("checkpoint", ("prev",), BLAKE),
    ("checkpoint", ("update", "l2"), "-0x1.0000000000000p+0"),
    ("checkpoint", ("update", "l2"), "inf"),
    ("checkpoint", ("loss",), "nan"),
    ("checkpoint", ("loss",), "0x1p+0"),
    ("final", ("files", 0, "path"), "/etc/passwd"),
    ("rotate", ("kind",), "renew"),
]


@pytest.mark.parametrize(
    ("kind", "place", "new"),
    WRONG,
    ids=[f"{kind} {'.'.join(map(str, place))} {number}" for number, (kind, place, _) in enumerate(WRONG)],
)
def test_a_value_out_of_range_is_refused(kind: str, place: tuple[Any, ...], new: Any) -> None:
    with pytest.raises(EvidenceError):
        parse_entry(encode(put({"kind": kind, "prev": SHA} | SOUND[kind], place, new)))


@pytest.mark.parametrize("part", ["recipe", "dataset", "configuration"])
def test_a_genesis_owns_its_loop_whole_or_not_at_all(part: str) -> None:
    with pytest.raises(FormatError, match="together or not at all"):
        parse("genesis", {name: value for name, value in SOUND["genesis"].items() if name != part})
    foreign = {n: v for n, v in SOUND["genesis"].items() if n not in ("recipe", "dataset", "configuration")}
    entry = parse("genesis", foreign)
    assert isinstance(entry, Genesis)
    assert entry.foreign


def test_an_entry_has_a_limit() -> None:
    def start(length: int) -> Start:
        return Start(sha256(b""), "prover", bytes(32), {f"k{i:03}": "x" * 1000 for i in range(length)})

    assert len(encode_entry(start(60))) < ENTRY_LIMIT
    with pytest.raises(FormatError, match="over the limit"):
        encode_entry(start(70))


@given(configurations)
def test_checkpoints_follow_the_interval_schedule(configuration: Configuration) -> None:
    steps, step = [0], 0
    while step < configuration.steps:
        step = configuration.next_checkpoint(step)
        assert step > steps[-1], "the schedule stands still"
        steps.append(step)
    assert steps[-1] == configuration.steps
    wanted = {0, configuration.steps}
    for number, (start, every) in enumerate(configuration.interval):
        later = [s for s, _ in configuration.interval[number + 1 :]]
        wanted |= {s for s in range(start, min([*later, configuration.steps]) + 1, every) if s <= configuration.steps}
        wanted |= {s for s in later if s <= configuration.steps}
    assert set(steps) == wanted


def test_the_program_is_entry_arguments_and_files_and_no_library() -> None:
    ref = RecipeRef("train.py", False, ("a",), (FileRef.parse(FILE),), ("torch==2",))
    assert ref.program() == RecipeRef("train.py", False, ("a",), ref.files, ("torch==3",)).program()
    for other in (
        RecipeRef("train.py", False, ("b",), ref.files, ref.imports),
        RecipeRef("train", True, ("a",), ref.files, ref.imports),
        RecipeRef("train.py", False, ("a",), (FileRef.parse(FILE | {"size": 4}),), ref.imports),
    ):
        assert other.program() != ref.program()


def test_the_chain_begins_at_the_task_or_the_genesis() -> None:
    alone = Genesis(run_id=bytes(16), key=KEYS[0])
    tasked = Genesis(run_id=bytes(16), key=KEYS[0], task=Digest("blake3", bytes(32)))
    assert chain_base(alone) == merkle.leaf_hash(tag("entry") + encode_entry(alone))
    assert chain_base(tasked) == bytes(32)
    assert leaf_data(b"x") == b"polchain-entry/v1\0x"
    state = sha256(b"state")
    assert extend_chain(bytes(32), state) == sha256(b"polchain-chain/v1\0", bytes(32), state.value)


@pytest.mark.parametrize("path", ["a", "a/b.py", "é.txt", "a b", "...", ".hidden", "a..b"])
def test_a_path_that_stays_inside_is_kept(path: str) -> None:
    assert safe_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "./a", "a\\b", "c:a", "a\0", "a\n", " a", "a /b",
        "\ud800", "a\u202eb", "x" * 513, "é" * 257,
    ],
)  # fmt: skip
def test_a_path_that_may_leave_is_refused(path: str) -> None:
    with pytest.raises(FormatError, match="unsafe path"):
        safe_path(path)
