"""Integrity: an untouched claim passes, and no tampering that we could think of does.

Two tamperers: one who changes files, and one who also lists them anew in claim.json, so that only what the prover
signed speaks against him. A third holds the prover's own key.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polchain.core.claim import Claim, write_listing
from polchain.core.digest import Digest, sha256
from polchain.core.encoding import encode
from polchain.core.entries import BeaconRef, CheckpointEntry, Entry, Final, KeyChange, Start
from polchain.core.genesis import Configuration, DatasetRef, Genesis
from polchain.core.keys import PrivateKey
from polchain.core.note import TreeHead, origin_of, sign_head
from polchain.errors import ChainError, FormatError, KeyMismatchError, MissingFileError, PolchainError, SignatureError
from polchain.storage.checkpoints import CheckpointStore
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from tests.claims import Recorded, checkpoints_of, copy_of, entries_of, genesis_of, write_log
from tests.forgers.forge import ZERO

ZERO_BLAKE3 = Digest("blake3", bytes(32))
ROOTS = {group: sha256(group.encode()) for group in ("model", "optimizer", "schedule", "extra")}


class Bench:
    """A claim to tamper with, as often as one likes: it is put back afterwards."""

    def __init__(self, claim: Path, key: PrivateKey) -> None:
        self.claim = claim
        self.key = key
        self.original = {p.relative_to(claim).as_posix(): p.read_bytes() for p in claim.rglob("*") if p.is_file()}

    def refusal(self, *, relist: bool) -> PolchainError:
        """The error that integrity ends in; anything else fails the test."""
        if relist:
            write_listing(self.claim)
        try:
            with pytest.raises(PolchainError) as caught:
                check_integrity(Claim.read(self.claim), Policy(keys=frozenset({self.key.public})))
        finally:
            self.restore()
        assert caught.value.exit_code in (1, 4), f"exit {caught.value.exit_code}: {caught.value}"
        return caught.value

    def restore(self) -> None:
        for path in sorted(self.claim.rglob("*"), reverse=True):
            name = path.relative_to(self.claim).as_posix()
            if path.is_symlink() or (path.is_file() and name not in self.original):
                path.unlink()
            elif path.is_dir() and not any(known.startswith(f"{name}/") for known in self.original):
                path.rmdir()
        for name, data in self.original.items():
            path = self.claim / name
            if not path.is_file() or path.stat().st_size != len(data) or path.read_bytes() != data:
                path.write_bytes(data)

    def flip(self, name: str, at: int, mask: int) -> None:
        data = bytearray(self.original[name])
        data[at] ^= mask
        (self.claim / name).write_bytes(data)


@pytest.fixture(scope="module")
def bench(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(copy_of(recorded.claim, tmp_path_factory.mktemp("tamper") / "claim"), recorded.key)


@pytest.fixture
def whole(bench: Bench) -> Iterator[Bench]:
    yield bench
    bench.restore()


RELIST = pytest.mark.parametrize("relist", [False, True], ids=["as it is", "listed anew"])


# The claim as it is


def test_an_untouched_claim_is_intact(intact: IntactClaim) -> None:
    assert intact.pinned
    assert intact.steps == 60
    assert [segment.steps for segment in intact.segments] == [5] * 12


def test_without_a_pinned_key_it_is_intact_and_says_so(recorded: Recorded) -> None:
    assert not check_integrity(Claim.read(recorded.claim), Policy()).pinned


def test_integrity_loads_neither_torch_nor_web3_and_checks_a_thousand_entries_in_a_second(long_claim: Path) -> None:
    program = """
import sys, time
from polchain.core.claim import Claim
from polchain.verifier.integrity import check_integrity
from polchain.verifier.policy import Policy
check = lambda: check_integrity(Claim.read(sys.argv[1]), Policy())
begun = time.process_time()
found = check()
print(time.process_time() - begun, found.head.size, *({"torch", "web3"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program, long_claim], capture_output=True, text=True, check=True)
    seconds, entries, *loaded = done.stdout.split()
    assert (entries, loaded) == ("1000", [])
    assert float(seconds) < 1.0


# Bytes


@RELIST
def test_one_flipped_byte_in_any_file_is_refused(whole: Bench, relist: bool) -> None:
    for name, data in whole.original.items():
        if relist and name == "claim.json":
            continue
        size = len(data)
        for at in sorted({0, 1, size // 3, size // 2, size - 2, size - 1}):
            whole.flip(name, at, 0x01 if at % 2 else 0x80)
            whole.refusal(relist=relist)


def test_every_byte_of_the_head_counts(whole: Bench) -> None:
    for at in range(len(whole.original["heads/last.note"])):
        whole.flip("heads/last.note", at, 0x01 if at % 2 else 0x20)
        whole.refusal(relist=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_any_flipped_bits_are_refused(whole: Bench, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(whole.original)))
    at = data.draw(st.integers(0, len(whole.original[name]) - 1))
    whole.flip(name, at, data.draw(st.integers(1, 255)))
    whole.refusal(relist=name != "claim.json" and data.draw(st.booleans()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_a_file_cut_short_or_lengthened_is_refused(whole: Bench, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(whole.original)))
    original = whole.original[name]
    cut = data.draw(st.integers(0, len(original) - 1))
    changed = data.draw(st.sampled_from([original[:cut], original + b"\n", original + b"\0", b"\n" + original]))
    (whole.claim / name).write_bytes(changed)
    whole.refusal(relist=name != "claim.json" and data.draw(st.booleans()))


# Files


def test_a_file_that_was_removed_is_missed(whole: Bench) -> None:
    for name in whole.original:
        (whole.claim / name).unlink()
        assert isinstance(whole.refusal(relist=False), MissingFileError), name


def test_a_file_that_was_removed_and_unlisted_is_missed_unless_it_was_only_disclosed(whole: Bench) -> None:
    for name in whole.original:
        if name.startswith("checkpoints/") or name == "claim.json":
            continue  # a state need not be disclosed: the verdict is then INCONCLUSIVE, see test_verdict.py
        (whole.claim / name).unlink()
        whole.refusal(relist=True)


@RELIST
@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        ".hidden",
        "heads/first.note",
        "recipe/helper.py",
        f"manifests/{'0' * 64}.json",
        f"checkpoints/{'0' * 64}.safetensors",
        "deep/down/below.txt",
    ],
)
def test_a_file_that_was_added_is_refused(whole: Bench, name: str, relist: bool) -> None:
    (whole.claim / name).parent.mkdir(parents=True, exist_ok=True)
    (whole.claim / name).write_bytes(b"something")
    assert isinstance(whole.refusal(relist=relist), FormatError)


def test_a_folder_or_a_link_that_was_added_is_refused(whole: Bench) -> None:
    (whole.claim / "empty").mkdir()
    assert "claim.json does not list it" in str(whole.refusal(relist=False))
    (whole.claim / "link").symlink_to("/etc/hostname")
    assert "is a link" in str(whole.refusal(relist=False))
    (whole.claim / "entries.jsonl").unlink()
    (whole.claim / "entries.jsonl").symlink_to("/etc/hostname")
    whole.refusal(relist=False)


@RELIST
def test_a_file_of_another_run_is_refused(whole: Bench, other: Recorded, relist: bool) -> None:
    theirs = {p.relative_to(other.claim).as_posix(): p.read_bytes() for p in other.claim.rglob("*") if p.is_file()}
    strange = {folder: [n for n in sorted(theirs) if n.startswith(folder)] for folder in ("manifests/", "checkpoints/")}
    for name, data in whole.original.items():
        folder = f"{name.partition('/')[0]}/"
        replacement = theirs[strange[folder][3]] if folder in strange else theirs[name]
        if replacement == data or (relist and name == "claim.json"):
            continue  # both runs have the same recipe
        (whole.claim / name).write_bytes(replacement)
        whole.refusal(relist=relist)


def test_the_whole_log_of_another_run_over_these_states_is_refused(whole: Bench, other: Recorded) -> None:
    for name in ("entries.jsonl", "heads/last.note"):
        (whole.claim / name).write_bytes((other.claim / name).read_bytes())
    assert isinstance(whole.refusal(relist=True), KeyMismatchError)
    for name in ("entries.jsonl", "heads/last.note"):
        (whole.claim / name).write_bytes((other.claim / name).read_bytes())
    write_listing(whole.claim)
    with pytest.raises(FormatError, match="belongs to nothing in the log"):
        check_integrity(Claim.read(whole.claim), Policy())


def test_a_state_of_another_step_under_this_steps_name_is_refused(whole: Bench) -> None:
    first, second = (entry.state.hex for entry in checkpoints_of(whole.claim)[:2])
    for kind in ("manifests/{}.json", "checkpoints/{}.safetensors"):
        (whole.claim / kind.format(first)).write_bytes(whole.original[kind.format(second)])
        whole.refusal(relist=True)


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "a/../b", "a//b", "a\\b", "c:d", ".", "", "a\nb"])
def test_a_path_that_leaves_the_folder_is_refused(whole: Bench, path: str) -> None:
    files = [{"path": path, "size": 0, "digest": f"blake3:{'0' * 64}"}]
    (whole.claim / "claim.json").write_bytes(encode({"format": "polchain-claim/v1", "files": files}))
    assert "unsafe path" in str(whole.refusal(relist=False))


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"files":[],"format":"polchain-claim/v2"}',
        b'{"files": [], "format":"polchain-claim/v1"}',
        b'{"files":[],"format":"polchain-claim/v1","more":1}',
        b'{"files":[],"files":[],"format":"polchain-claim/v1"}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"files":1e400,"format":"polchain-claim/v1"}',
    ],
)
def test_a_listing_that_is_none_is_refused(whole: Bench, listing: bytes) -> None:
    (whole.claim / "claim.json").write_bytes(listing)
    assert isinstance(whole.refusal(relist=False), FormatError)


def test_there_must_be_a_claim(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no claim at"):
        Claim.read(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=r"claim\.json is not in the claim"):
        Claim.read(tmp_path)


# Entries


def lines_of(bench: Bench) -> list[bytes]:
    return bench.original["entries.jsonl"].splitlines(keepends=True)


def test_two_entries_swapped_one_dropped_or_one_doubled_are_refused(whole: Bench) -> None:
    lines = lines_of(whole)
    for i in range(len(lines)):
        swapped = [*lines]
        swapped[i - 1], swapped[i] = swapped[i], swapped[i - 1]
        for tampered in (swapped, lines[:i] + lines[i + 1 :], [*lines[: i + 1], *lines[i:]]):
            for relist in (False, True):
                (whole.claim / "entries.jsonl").write_bytes(b"".join(tampered))
                whole.refusal(relist=relist)


@pytest.mark.parametrize(
    "linked", [{"prev": False, "chain": False}, {"chain": False}, {}], ids=["signed", "prev mended", "all mended"]
)
def test_the_prover_himself_cannot_swap_drop_or_double_entries(whole: Bench, linked: dict[str, bool]) -> None:
    entries = entries_of(whole.claim)
    for i in range(1, len(entries)):
        orders: list[list[Entry]] = [[*entries[:i], entries[i], *entries[i:]]]
        if i < len(entries) - 1:  # without its final entry a log is whole: a run may end anywhere
            orders.append(entries[:i] + entries[i + 1 :])
            orders.append([*entries[:i], entries[i + 1], entries[i], *entries[i + 2 :]])
        for order in orders:
            write_log(whole.claim, order, whole.key, **linked)
            whole.refusal(relist=False)


Change = Callable[[Entry], Entry | Sequence[Entry]]


def at_step(step: int, /, **changes: object) -> Change:
    def change(entry: Entry) -> Entry:
        return replace(entry, **changes) if isinstance(entry, CheckpointEntry) and entry.step == step else entry

    return change


def at_genesis(change: Callable[[Genesis], Genesis]) -> Change:
    return lambda entry: change(entry) if isinstance(entry, Genesis) else entry


def configured(**changes: object) -> Change:
    def change(genesis: Genesis) -> Genesis:
        assert genesis.configuration is not None
        return replace(genesis, configuration=replace(genesis.configuration, **changes))  # type: ignore[arg-type]

    return at_genesis(change)


def after(kind: type, *more: Entry) -> Change:
    return lambda entry: [entry, *more] if isinstance(entry, kind) else entry


STRANGER = PrivateKey.generate().public
LATE = CheckpointEntry(ZERO, 65, ROOTS, ZERO)
BLOCK = BeaconRef(1, "mainnet", 100)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at_step(30, batches=Digest("blake3", bytes(32))), "the batches are not the ones that the seed gives"),
        (at_step(30, batches=None), "the batches are not the ones that the seed gives"),
        (at_step(30, step=31), "step 31 where the interval schedule has step 30"),
        (at_step(30, update=None), "an update size belongs to every checkpoint but the first"),
        (at_step(30, roots=ROOTS), "belongs to nothing in the log"),
        (at_step(60, roots=ROOTS), "the final state is not the last checkpoint's"),
        (configured(batch_size=16), "the batches are not the ones that the seed gives"),
        (configured(batch_size=4096), "the dataset has 512 samples, less than one batch of 4096"),
        (configured(steps=40), "a checkpoint after the last step, 40"),
        (configured(interval=((0, 10),)), "step 5 where the interval schedule has step 10"),
        (configured(interval=((0, 5), (12, 5))), "step 15 where the interval schedule has step 12"),
        (at_genesis(lambda g: replace(g, run_id=bytes(16))), "the batches are not the ones that the seed gives"),
        (at_genesis(lambda g: replace(g, dataset=DatasetRef(2**40, ZERO))), "samples, over the limit of"),
        (at_genesis(lambda g: replace(g, dataset=DatasetRef(511, ZERO))), "the batches are not the ones"),
        (at_genesis(lambda g: replace(g, recipe=None, dataset=None, configuration=None)), "a start in the wrong place"),
        (at_genesis(lambda g: replace(g, recipe=replace(g.recipe, files=()))), "the entry point is not one of"),
        (after(Genesis, Start(ZERO, "prover", bytes(32), {})), "a start in the wrong place"),
        (after(Final, KeyChange(ZERO, "revoke", STRANGER)), "revokes a key that is not in force"),
        (after(Final, LATE), "comes after the final one"),
        (lambda e: [] if isinstance(e, Start) else e, "a checkpoint before the start"),
        (lambda e: [] if isinstance(e, CheckpointEntry) and e.step == 0 else e, "has step 0"),
        (lambda e: [] if isinstance(e, CheckpointEntry) else e, "the final state is not the last checkpoint's"),
        (lambda e: replace(e, value=bytes(32)) if isinstance(e, Start) else e, "the batches are not the ones"),
        (lambda e: replace(e, source="beacon") if isinstance(e, Start) else e, "a beacon's seed names its block"),
        (lambda e: replace(e, beacon=BLOCK) if isinstance(e, Start) else e, "a beacon's seed names its block"),
        (
            lambda e: replace(e, source="beacon", beacon=BLOCK, value=bytes(32)) if isinstance(e, Start) else e,
            "the batches are not",
        ),
        (lambda e: replace(e, source="task") if isinstance(e, Start) else e, "the genesis names no task"),
        (lambda e: replace(e, roots=ROOTS) if isinstance(e, Final) else e, "not the last checkpoint's"),
    ],
)
def test_what_the_prover_signs_must_hold_together(whole: Bench, change: Change, words: str) -> None:
    entries: list[Entry] = []
    for entry in entries_of(whole.claim):
        made = change(entry)
        entries += [*made] if isinstance(made, list) else [made]  # type: ignore[list-item]
    write_log(whole.claim, entries, whole.key)
    assert words in str(whole.refusal(relist=False))


def test_a_giant_segment_is_refused_before_it_is_counted_out(whole: Bench) -> None:
    genesis, start, first, second, *_ = entries_of(whole.claim)
    assert isinstance(genesis, Genesis)
    assert isinstance(second, CheckpointEntry)
    configuration = Configuration(2**40, 32, ((0, 2**40),), "fp32", deterministic=True)
    giant = [replace(genesis, configuration=configuration), start, first, replace(second, step=2**40)]
    write_log(whole.claim, giant, whole.key)
    # The batches of step 0 are none, so they follow from any seed; the segment is refused for its length.
    assert "a segment of over" in str(whole.refusal(relist=False))


def test_a_log_without_a_genesis_or_of_nothing_is_refused(whole: Bench) -> None:
    for text in (b"", b"\n", b"{}\n", b"".join(lines_of(whole)[1:]), b"\n".join([b"x" * 70_000, b""])):
        (whole.claim / "entries.jsonl").write_bytes(text)
        whole.refusal(relist=True)


# Heads and keys


def test_a_head_by_another_key_over_another_run_or_another_tree_is_refused(whole: Bench) -> None:
    genesis = genesis_of(entries_of(whole.claim))
    size = len(lines_of(whole))
    right = check_integrity(Claim.read(whole.claim), Policy()).head
    origin = right.origin
    heads = [
        (TreeHead(origin, size, right.root), PrivateKey.generate(), SignatureError),
        (TreeHead(origin_of(genesis.key, bytes(16)), size, right.root), whole.key, PolchainError),
        (TreeHead(origin, size + 1, right.root), whole.key, ChainError),
        (TreeHead(origin, size - 1, right.root), whole.key, ChainError),
        (TreeHead(origin, size, bytes(32)), whole.key, ChainError),
    ]
    for head, key, kind in heads:
        (whole.claim / "heads/last.note").write_bytes(sign_head(head, key))
        assert isinstance(whole.refusal(relist=True), kind)


def test_a_claim_signed_by_another_key_than_the_pinned_one_is_refused(recorded: Recorded, other: Recorded) -> None:
    with pytest.raises(KeyMismatchError, match="is not the pinned key") as caught:
        check_integrity(Claim.read(other.claim), Policy(keys=frozenset({recorded.key.public})))
    assert caught.value.exit_code == 1


# States


def test_tensors_without_rows_and_rows_of_another_state_are_refused(whole: Bench) -> None:
    state = checkpoints_of(whole.claim)[3].state
    (whole.claim / f"manifests/{state.hex}.json").unlink()
    assert "tensors without a manifest" in str(whole.refusal(relist=True))


def test_a_sparse_terabyte_of_tensors_is_refused_at_once(whole: Bench) -> None:
    state = checkpoints_of(whole.claim)[3].state
    name = f"checkpoints/{state.hex}.safetensors"
    files = [ref.to_json() for ref in Claim.read(whole.claim).files.values()]
    for item in files:
        assert isinstance(item, dict)
        if item["path"] == name:
            item["size"] = 2**40
    os.truncate(whole.claim / name, 2**40)
    (whole.claim / "claim.json").write_bytes(encode({"format": "polchain-claim/v1", "files": files}))
    begun = time.monotonic()
    assert "where its manifest has" in str(whole.refusal(relist=False))
    assert time.monotonic() - begun < 30


def test_a_listing_with_another_digest_of_tensors_is_refused(whole: Bench) -> None:
    name = f"checkpoints/{checkpoints_of(whole.claim)[3].state.hex}.safetensors"
    refs = Claim.read(whole.claim).files.values()
    files = [{**replace(ref, digest=ZERO_BLAKE3 if ref.path == name else ref.digest).to_json()} for ref in refs]  # type: ignore[dict-item]
    (whole.claim / "claim.json").write_bytes(encode({"format": "polchain-claim/v1", "files": files}))
    assert f"{name} is not the file that claim.json lists" in str(whole.refusal(relist=False))


@pytest.mark.parametrize("samples", [2**27 + 1, 2**32])
def test_more_samples_than_a_verifier_holds_in_memory_are_refused_by_name(whole: Bench, samples: int) -> None:
    entries = [
        replace(entry, dataset=DatasetRef(samples, ZERO)) if isinstance(entry, Genesis) else entry
        for entry in entries_of(whole.claim)
    ]
    write_log(whole.claim, entries, whole.key)
    assert "samples, over the limit of 134217728" in str(whole.refusal(relist=False))


def test_a_state_that_is_not_disclosed_at_all_is_no_damage(whole: Bench) -> None:
    state = checkpoints_of(whole.claim)[3].state
    (whole.claim / f"manifests/{state.hex}.json").unlink()
    (whole.claim / f"checkpoints/{state.hex}.safetensors").unlink()
    write_listing(whole.claim)
    found = check_integrity(Claim.read(whole.claim), Policy())
    assert found.claim.checkpoint(state) is None
    assert CheckpointStore(whole.claim).has(checkpoints_of(whole.claim)[4].state)
