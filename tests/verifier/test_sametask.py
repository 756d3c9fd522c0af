"""Claims of one task: where they part is found by bisection, and one replayed segment convicts who departed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.cli.app import main
from polchain.core.claim import Claim
from polchain.core.digest import Digest, sha256
from polchain.core.entries import CheckpointEntry, Entry, Final, Start
from polchain.core.keys import PrivateKey
from polchain.core.manifest import Snapshot
from polchain.core.task import Task
from polchain.prover.export import export
from polchain.storage.checkpoints import CheckpointStore
from polchain.storage.keyfile import write_key
from polchain.storage.ledger import Ledger
from polchain.training.fingerprint import setting_of
from polchain.training.program import Program
from polchain.verifier import benches, sametask
from polchain.verifier.bench import Bench
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.sametask import Compared, Comparison, compare, parting
from tests.claims import SCRIPTS, entries_of, genesis_of, write_log
from tests.forgers.forge import tensors_of, with_rows
from tests.schema import violations

SEGMENTS, EVERY = 200, 2
SEED = bytes([7] * 32)
WORDS = ("--", "--steps", str(SEGMENTS * EVERY), "--every", str(EVERY))


def digests(text: str) -> list[Digest]:
    return [sha256(c.encode()) for c in text]


def test_the_first_difference_is_found_in_few_looks() -> None:
    class Counted(list[Digest]):
        looks = 0

        def __getitem__(self, index: Any) -> Any:
            Counted.looks += 1
            return super().__getitem__(index)

    chain = digests("".join(chr(33 + i) for i in range(200)))
    for place in (0, 1, 77, 198, 199):
        Counted.looks = 0
        other = [*chain[:place], *(sha256(d.value) for d in chain[place:])]
        assert parting(Counted(chain), other) == place
        assert Counted.looks <= 10


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_chains_part_once_and_for_ever(common: int, left: int, right: int) -> None:
    same = [sha256(bytes([i])) for i in range(common)]
    one = same + [sha256(b"left", bytes([i])) for i in range(left)]
    other = same + [sha256(b"right", bytes([i])) for i in range(right)]
    expected = common if left and right else None
    assert parting(one, other) == parting(other, one) == expected


@dataclass
class Room:
    """An honest worker's claim of a task, and the warm child that replays it."""

    folder: Path
    task: Task
    honest: IntactClaim
    bench: Bench
    leaves: Sequence[bytes]

    def compare(self, left: IntactClaim, right: IntactClaim, *, task: bool = True) -> Comparison:
        return compare((left, right), ("A", "B"), self.task if task else None, lambda _: (self.bench, self.leaves))

    def state(self, place: int) -> Snapshot:
        return CheckpointStore(self.honest.claim.path).get(self.honest.checkpoints[place].state)

    def departed(self, step: int, source: random.Random) -> tuple[int, Snapshot]:
        """The state that a segment closes with, if one step of it uses other samples; and its place in the log."""
        segment = self.honest.segments[step // EVERY]
        assert self.honest.order is not None
        batches = list(self.honest.order.batches(segment.first, segment.last))
        batches[step - segment.first] = source.sample(range(200), 16)
        result = self.bench.worker().replay(SEED, segment.first, segment.last, batches, self.state(segment.index))
        return segment.index + 1, result.closings[-1].snapshot

    def claim(
        self, name: str, states: dict[int, Snapshot], edit: Callable[[Entry], Entry] = lambda entry: entry
    ) -> IntactClaim:
        """Another worker's log: the honest one, but for these states; what comes after the first of them is made up."""
        out, key = self.folder / name, PrivateKey.generate()
        (out / "recipe").mkdir(parents=True)
        for path, text in self.honest.recipe.items():
            (out / "recipe" / path).write_bytes(text)
        made: list[Entry] = []
        place = -1
        for entry in entries_of(self.honest.claim.path):
            if isinstance(entry, CheckpointEntry):
                place += 1
                if place in states:
                    entry = replace(entry, roots=states[place].manifest.roots())
                elif states and place > min(states):
                    entry = replace(
                        entry, roots={group: sha256(group.encode(), bytes([place])) for group in entry.roots}
                    )
            if not isinstance(entry, Final):
                made.append(edit(entry))
        made[0] = replace(genesis_of(made), key=key.public, run_id=os.urandom(16))
        for state in states.values():
            CheckpointStore(out).put(state)
        write_log(out, made, key)
        return check_integrity(Claim.read(out), Policy())


def polchain(folder: Path, *words: object) -> None:
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(folder / "key"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-P", "-m", "polchain.cli.app", *map(str, words)]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """Somebody orders a task; a worker does it, by the command line."""
    folder = tmp_path_factory.mktemp("task")
    write_key(folder / "key", PrivateKey.generate(), None)
    shutil.copy(SCRIPTS / "steady.py", folder)
    polchain(folder, "init", "draft", "--recipe", "steady.py", *WORDS)
    with Ledger(folder / "draft") as ledger:
        task = Task.of(ledger.genesis, SEED)
    (folder / "task.json").write_bytes(task.encode())
    polchain(folder, "init", "run", "--task", "task.json", "--recipe", "steady.py", *WORDS)
    polchain(folder, "train", "run")
    export(folder / "run", folder / "honest")
    honest = check_integrity(Claim.read(folder / "honest"), Policy())
    assert honest.genesis.recipe is not None
    assert honest.start is not None
    program = Program(honest.genesis.recipe, honest.recipe)
    with Bench(program, setting_of(honest.start.fingerprint), folder) as bench:
        _, leaves = bench.worker().commit_dataset()
        yield Room(folder, task, honest, bench, leaves)


def test_a_run_of_a_task_names_it_and_takes_its_seed(room: Room) -> None:
    assert room.honest.genesis.task == room.task.digest
    assert room.honest.start is not None
    assert (room.honest.start.source, room.honest.start.value) == ("task", SEED)
    assert (room.honest.seed, len(room.honest.segments)) == (SEED, SEGMENTS)


def test_a_departure_at_one_random_step_is_convicted_after_exactly_one_replay(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    replays: list[str] = []
    run = sametask.run_segment

    def counted(intact: Any, segment: Any, *rest: Any) -> Any:
        replays.append(str(segment))
        return run(intact, segment, *rest)

    monkeypatch.setattr(sametask, "run_segment", counted)
    convicted = 0
    for number in range(50):
        source = random.Random(number)
        step = source.randrange(SEGMENTS * EVERY)
        place, state = room.departed(step, source)
        worker = room.claim(f"departed-{number}", {place: state})
        replays.clear()
        pair = (room.honest, worker) if number % 2 else (worker, room.honest)
        found = room.compare(*pair)
        assert found.outcome is Compared.CONVICTED, found.reasons
        assert found.convicted == ((False, True) if number % 2 else (True, False)), found.reasons
        assert replays == [found.segment], "one segment, once"
        assert found.segment == str(room.honest.segments[place - 1]), "the one with the step in it"
        assert found.replayed == 1
        convicted += 1
    assert convicted == 50


def test_two_who_did_the_task_agree(room: Room) -> None:
    again = room.claim("again", {})
    found = room.compare(room.honest, again)
    assert (found.outcome, found.replayed) == (Compared.AGREE, 0)
    assert found.reasons == ("the same states up to step 400",)


def test_two_who_both_departed_are_both_convicted(room: Room) -> None:
    source = random.Random(1)
    claims = [
        room.claim(f"both-{n}", {p: s, p - 1: room.state(p - 1)})
        for n in (0, 1)
        for p, s in [room.departed(10, source)]
    ]
    # The state that both agree on is disclosed by both; what they close with is off by far more than rounding.
    found = room.compare(claims[0], claims[1])
    assert (found.outcome, found.convicted) == (Compared.CONVICTED, (True, True)), found.reasons
    assert found.mirrored.convicted == (True, True)


def test_a_state_that_neither_discloses_decides_nothing(room: Room) -> None:
    source = random.Random(2)
    claims = [room.claim(f"closed-{n}", dict([room.departed(10, source)])) for n in (0, 1)]
    found = room.compare(claims[0], claims[1])
    assert (found.outcome, found.convicted) == (Compared.UNDECIDED, (False, False))
    assert found.reasons == ("the state of step 10, which both agree on, is disclosed by neither",)


def test_another_initial_state_is_convicted_from_the_seed(room: Room) -> None:
    worker = room.claim("initial", {0: room.state(5)})
    found = room.compare(room.honest, worker)
    assert (found.outcome, found.convicted, found.replayed) == (Compared.CONVICTED, (False, True), 0)


def test_another_seed_than_the_tasks_convicts_by_its_own_words(room: Room) -> None:
    def other(entry: Entry) -> Entry:
        return replace(entry, value=bytes(32)) if isinstance(entry, Start) else entry

    with pytest.raises(Exception, match="the batches are not the ones that the seed gives"):
        room.claim("other-seed", {}, other)
    another = replace(room.task, seed=bytes(32))
    found = compare((room.honest, room.honest), ("A", "B"), another, lambda _: (room.bench, room.leaves))
    assert found.convicted == (True, True)
    assert found.reasons[0] == "A states another seed than the task"


def test_one_dataset_under_two_secrets_is_not_compared(room: Room) -> None:
    def salted(text: bytes) -> IntactClaim:
        assert room.honest.genesis.dataset is not None
        dataset = replace(room.honest.genesis.dataset, salts=sha256(text))
        return replace(room.honest, genesis=replace(room.honest.genesis, dataset=dataset))

    for claims in ((salted(b"one"), salted(b"two")), (room.honest, salted(b"one"))):
        found = room.compare(*claims, task=False)
        assert (found.outcome, found.replayed) == (Compared.UNDECIDED, 0)
        assert "the same data under two secrets, or under one and none" in found.reasons[0]
    found = room.compare(room.honest, salted(b"one"))
    assert (found.outcome, found.convicted) == (Compared.CONVICTED, (False, True)), "plain data was ordered"
    assert found.reasons == ("B states another dataset, or the same under another secret than the task",)


def test_a_conviction_takes_the_same_setting(room: Room) -> None:
    """Another machine rounds another way: there a difference is examined, and this one is large enough."""

    def elsewhere(entry: Entry) -> Entry:
        if not isinstance(entry, Start):
            return entry
        return replace(entry, fingerprint={**entry.fingerprint, "cpu": "another CPU", "torch": "2.0.0"})

    place, state = room.departed(20, random.Random(3))
    worker = room.claim("elsewhere", {place: state}, elsewhere)
    CheckpointStore(worker.claim.path).put(room.state(place - 1))
    found = room.compare(room.honest, worker)
    assert found.convicted == (False, False), "with another torch nothing is known"
    assert found.outcome is Compared.UNDECIDED


def test_who_repeats_the_others_fingerprint_convicts_nobody(room: Room) -> None:
    """An honest worker on another machine, and a rival whose machine is the verifier's and who says that it is his."""

    def elsewhere(entry: Entry) -> Entry:
        if not isinstance(entry, Start):
            return entry
        return replace(entry, fingerprint={**entry.fingerprint, "cpu": "another CPU", "torch": "2.0.0"})

    place, opening, closing = 2, room.state(1), room.state(2)
    rounded = {n: t * (1 + 1e-7) if t.is_floating_point() else t for n, t in tensors_of(closing).items()}
    worker = room.claim("rounds", {place: with_rows(closing, rounded)}, elsewhere)
    rival = room.claim("repeats", {}, elsewhere)
    for claim in (worker, rival):
        CheckpointStore(claim.claim.path).put(opening)
    for pair in ((worker, rival), (rival, worker)):
        found = room.compare(*pair)
        assert (found.outcome, found.convicted) == (Compared.UNDECIDED, (False, False)), found.reasons


def test_foreign_claims_that_name_a_task_are_undecided(room: Room) -> None:
    foreign = replace(room.honest, genesis=replace(room.honest.genesis, recipe=None, dataset=None))
    found = compare((foreign, foreign), ("A", "B"), None, lambda _: pytest.fail("nothing can be replayed"))
    assert found.outcome is Compared.UNDECIDED
    assert "nothing of it can be replayed" in found.reasons[0]


def test_the_command_compares_claims_of_one_task(
    room: Room, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benches, "Bench", lambda *_, **__: contextlib.nullcontext(room.bench))
    place, state = room.departed(101, random.Random(4))
    worker = room.claim("by-command", {place: state})
    words = [
        "verify",
        "--claim",
        room.folder / "honest",
        "--claim",
        worker.claim.path,
        "--task",
        room.folder / "task.json",
    ]
    words += ["--data", room.folder, "--unsafe-no-sandbox"]
    assert main([str(word) for word in words]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["CONVICTED", "B departed from the task in steps 100 to 102; A is not convicted"]
    assert main([*map(str, words), "--json"]) == 0
    schema = json.loads((Path(__file__).parents[2] / "docs" / "ruling.schema.json").read_text())
    value = json.loads(capsys.readouterr().out)
    assert violations(value, schema) == []
    assert (value["named"], value["task"][0]["replayed"]) == (["B"], 1)
    other = room.folder / "other.json"
    other.write_bytes(replace(room.task, seed=bytes(32)).encode())
    words[words.index("--task") + 1] = other
    assert main([str(word) for word in words]) == 2
    assert "--task names another task than the claims" in capsys.readouterr().err


def test_init_refuses_what_the_task_does_not_order(room: Room, tmp_path: Path) -> None:
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(room.folder / "key"), "OMP_NUM_THREADS": "1"}
    line = [
        sys.executable,
        "-P",
        "-m",
        "polchain.cli.app",
        "init",
        tmp_path / "run",
        "--task",
        room.folder / "task.json",
    ]
    line += ["--recipe", "steady.py", "--", "--steps", "10"]
    done = subprocess.run(line, cwd=room.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "this is not what the task orders: another recipe, another configuration" in done.stderr
    assert not (tmp_path / "run" / "ledger.db").exists()
