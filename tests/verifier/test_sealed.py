"""A sealed claim is challenged, answered and judged; an answer to anything else is refused by name."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from polchain.core.archive import read_archive, write_archive
from polchain.core.claim import Claim, checkpoint_name, manifest_name
from polchain.core.entries import CheckpointEntry
from polchain.core.multiproof import prove_inclusions
from polchain.core.opening import CHALLENGE, HEADER, PROOF, SAMPLES, Opening, write_opening
from polchain.core.place import Place
from polchain.core.question import Question
from polchain.core.samples import pack_samples, unpack_samples
from polchain.errors import (
    ChallengeError,
    CheckpointMissingError,
    DatasetError,
    FormatError,
    InclusionError,
    ManifestError,
    MissingFileError,
    PolchainError,
    UsageError,
)
from polchain.prover.export import export
from polchain.prover.opening import respond
from polchain.storage.checkpoints import CheckpointStore
from polchain.training.dataset import encode_sample, sample_leaf
from polchain.training.held import Held
from polchain.verifier import doubts
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.sealed import ask, read_answer
from polchain.verifier.tolerance import Examination
from polchain.verifier.verdict import Ruled, Verdict
from polchain.verifier.verify import verify
from tests.claims import DATA, Recorded, checkpoints_of, entries_of, genesis_of, write_log
from tests.forgers.forge import Workshop
from tests.scripts.digits import read

SEED = bytes(range(32))
NOWHERE = Path("/nonexistent")


def policy_of(recorded: Recorded, **more: object) -> Policy:
    recipe = genesis_of(entries_of(recorded.claim)).recipe
    assert recipe is not None
    keys, recipes = frozenset({recorded.key.public}), frozenset({recipe.program()})
    return Policy(keys=keys, recipes=recipes, **more)  # type: ignore[arg-type]


class Sealed:
    """A recorded run, its sealed claim, and a verifier at work on it."""

    def __init__(self, recorded: Recorded, folder: Path, **policy: object) -> None:
        self.recorded, self.folder = recorded, folder
        self.run = recorded.claim.parent / "run"
        self.claim = folder / "sealed.zip"
        export(self.run, self.claim, sealed=True)
        self.policy = policy_of(recorded, **policy)
        self.intact = check_integrity(Claim.read(self.claim), self.policy)

    def ask(self, name: str = "c.json", seed: bytes = SEED, **how: bool) -> Path:
        (self.folder / name).write_bytes(ask(self.intact, seed, self.policy, **how)[0].encode())
        return self.folder / name

    def answer(self, challenge: Path, name: str = "r.opening", **how: bool) -> Path:
        respond(self.run, challenge.read_bytes(), self.folder / name, data=DATA, **how)
        return self.folder / name

    def verify(self, opening: Path, challenge: Path | None, data: Path = NOWHERE, claim: Path | None = None) -> Verdict:
        # One child: to start a second costs more than it saves.
        return verify(claim or self.claim, self.policy, opening=opening, challenge=challenge, data=data, jobs=1)


@pytest.fixture(scope="module")
def sealed(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """Twelve segments of five steps: all of them are asked for."""
    return Sealed(recorded, tmp_path_factory.mktemp("sealed"))


@pytest.fixture(scope="module")
def drawn(longer: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """120 segments, of which few are asked for."""
    return Sealed(longer, tmp_path_factory.mktemp("drawn"), fraction=0.5, confidence=0.9)


@pytest.fixture(scope="module")
def challenge(sealed: Sealed) -> Path:
    return sealed.ask()


@pytest.fixture(scope="module")
def opening(sealed: Sealed, challenge: Path) -> Path:
    return sealed.answer(challenge)


@pytest.fixture
def changed(opening: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, bytes]], object]], Path]:
    """The honest opening with its files changed, packed again."""

    def make(change: Callable[[dict[str, bytes]], object]) -> Path:
        files = {one.name: Place(opening, one).read(one.name, 10**9) for one in read_archive(opening)}
        change(files)
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.opening"
        write_archive(out, [(name, [data]) for name, data in files.items()])
        return out

    return make


def test_a_sealed_claim_is_verified_without_the_data(sealed: Sealed, challenge: Path, opening: Path) -> None:
    verdict = sealed.verify(opening, challenge)
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert verdict.bound.replayed == 60
    assert [test.finding.value for test in verdict.behaviour] == ["passed"] * 3
    assert verdict.swap.checked
    said = [remark for remark in verdict.remarks if remark.startswith("screens and largest updates: not checked")]
    assert not said, "every state was asked for"


def test_a_full_claim_gets_the_same_verdict_for_the_same_draw(drawn: Sealed, tmp_path: Path) -> None:
    challenge = drawn.ask()
    opening = drawn.answer(challenge)
    question = Question.decode(challenge.read_bytes())
    assert len(question.segments) < 20
    ours = drawn.verify(opening, challenge)
    theirs = verify(drawn.recorded.claim, drawn.policy, seed=SEED, data=DATA, jobs=1)
    assert ours.outcome is theirs.outcome is Ruled.VERIFIED, (ours.reasons, theirs.reasons)
    assert ours.challenge is not None
    assert theirs.challenge is not None
    assert ours.challenge.draws == theirs.challenge.draws
    assert ours.bound.draws == theirs.bound.draws
    assert any("states are not disclosed" in remark for remark in ours.remarks)
    assert not ours.swap.checked


def test_the_question_follows_from_the_claim_and_the_seed(drawn: Sealed) -> None:
    question, challenge = ask(drawn.intact, SEED, drawn.policy)
    assert question == ask(drawn.intact, SEED, drawn.policy)[0] == Question.decode(question.encode())
    assert question.segments == tuple(sorted((p.segment.first, p.segment.last) for p in challenge.picks))
    assert question.states == tuple(sorted({*(first for first, _ in question.segments), 600}))
    closings = ask(drawn.intact, SEED, drawn.policy, closings=True)[0]
    assert set(closings.states) == {step for pair in question.segments for step in pair}
    around = ask(drawn.intact, SEED, drawn.policy, around=[300])[0]
    assert {(295, 300), (300, 305)} <= set(around.segments)
    assert not ask(drawn.intact, SEED, drawn.policy, samples=False)[0].other_samples
    with pytest.raises(UsageError, match="no checkpoint of the claim is at step 301"):
        ask(drawn.intact, SEED, drawn.policy, around=[301])


def test_what_the_claim_discloses_is_not_asked_for(recorded: Recorded, intact: IntactClaim) -> None:
    assert ask(intact, SEED, policy_of(recorded))[0].states == ()


def test_where_the_data_is_at_hand_no_sample_is_moved(sealed: Sealed) -> None:
    challenge = sealed.ask("no-samples.json", samples=False)
    opening = sealed.answer(challenge, "no-samples.opening")
    assert Opening.read(opening).samples is None
    assert sealed.verify(opening, challenge, data=DATA).outcome is Ruled.VERIFIED


def test_a_challenge_that_nobody_names_proves_nothing(sealed: Sealed, opening: Path) -> None:
    (reason,) = read_answer(sealed.intact, opening, None, sealed.policy).missing
    assert "whoever answered may have drawn the challenge himself" in reason


def test_an_answer_to_another_challenge_is_refused(sealed: Sealed, challenge: Path, opening: Path) -> None:
    other = sealed.ask("other.json", seed=bytes(32))
    with pytest.raises(ChallengeError, match="the opening answers another challenge, blake3:"):
        sealed.verify(opening, other)


def test_an_answer_about_another_run_is_refused(
    sealed: Sealed, drawn: Sealed, challenge: Path, opening: Path, tmp_path: Path
) -> None:
    theirs = drawn.ask("another.json", samples=False)
    with pytest.raises(ChallengeError, match="the opening is about another run, polchain/v1/"):
        sealed.verify(drawn.answer(theirs, "another.opening"), challenge)
    with pytest.raises(ChallengeError, match="the challenge is about another run"):
        sealed.verify(opening, theirs)
    with pytest.raises(ChallengeError, match="the opening is about another run"):
        verify(drawn.claim, drawn.policy, opening=opening)
    with pytest.raises(ChallengeError, match="the challenge is about another run"):
        respond(sealed.run, theirs.read_bytes(), tmp_path / "r.opening", data=DATA)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def shorter(recorded: Recorded, tmp_path: Path) -> Path:
    """The sealed claim as it was earlier: the first eight entries, under a head that the same key signed."""
    out = tmp_path / "shorter"
    shutil.copytree(recorded.claim, out)
    entries = entries_of(out)[:8]
    shutil.rmtree(out / "checkpoints")
    kept = {f"{entry.state.hex}.json" for entry in entries if isinstance(entry, CheckpointEntry)}
    for path in (out / "manifests").iterdir():
        if path.name not in kept:
            path.unlink()
    write_log(out, entries, recorded.key)
    return out


def test_an_answer_about_another_head_is_refused(
    sealed: Sealed, opening: Path, challenge: Path, shorter: Path, tmp_path: Path
) -> None:
    with pytest.raises(ChallengeError, match="the challenge is about another head of this log, of 16 entries"):
        sealed.verify(opening, challenge, claim=shorter)
    unsigned = replace(Question.decode(challenge.read_bytes()), size=15).encode()
    with pytest.raises(ChallengeError, match="which this run has not signed"):
        respond(sealed.run, unsigned, tmp_path / "r.opening", data=DATA)


def test_a_run_that_has_grown_still_answers_for_its_older_head(sealed: Sealed, shorter: Path, tmp_path: Path) -> None:
    intact = check_integrity(Claim.read(shorter), sealed.policy)
    (tmp_path / "c.json").write_bytes(ask(intact, SEED, sealed.policy, samples=False)[0].encode())
    opening = sealed.answer(tmp_path / "c.json", "older.opening")
    assert read_answer(intact, opening, tmp_path / "c.json", sealed.policy).missing == ()


def test_a_draw_that_is_not_answered_is_inconclusive(
    sealed: Sealed, challenge: Path, changed: Callable[..., Path]
) -> None:
    state = checkpoints_of(sealed.recorded.claim)[3].state

    def drop(files: dict[str, bytes]) -> None:
        del files[checkpoint_name(state)], files[manifest_name(state)]

    verdict = sealed.verify(changed(drop), challenge)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert any("steps 15 to 20: the state of step 15 is not disclosed" in reason for reason in verdict.reasons)
    assert verdict.bound.replayed == 55


def test_without_its_samples_the_data_must_be_at_hand(
    sealed: Sealed, challenge: Path, changed: Callable[..., Path]
) -> None:
    def drop(files: dict[str, bytes]) -> None:
        del files[SAMPLES], files[PROOF]

    answered = read_answer(sealed.intact, changed(drop), challenge, sealed.policy)
    assert answered.held is None
    assert answered.leaves is None


def test_a_sample_that_is_missing_leaves_its_draws_unanswered(
    sealed: Sealed, challenge: Path, changed: Callable[..., Path]
) -> None:
    gone = Question.decode(challenge.read_bytes()).other_samples[0]

    def drop(files: dict[str, bytes]) -> None:
        samples = unpack_samples(memoryview(files[SAMPLES]), most=512, limit=10**6)
        leaves = [sample_leaf(bytes(samples[index])) for index in range(512)]  # all of them: every segment is asked for
        left = {index: data for index, data in samples.items() if index != gone}
        files[SAMPLES], files[PROOF] = b"".join(pack_samples(left)), b"".join(prove_inclusions(leaves, sorted(left)))

    verdict = sealed.verify(changed(drop), challenge)
    assert verdict.outcome is Ruled.INCONCLUSIVE
    assert any(f"could not be replayed: the recipe says: sample {gone} is not" in reason for reason in verdict.reasons)
    assert any("samples that the tests of behaviour take" in reason for reason in verdict.reasons)


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("checkpoints", ManifestError, "are not the ones that the log commits to"),
        ("manifests", (FormatError, ManifestError), "."),
        (SAMPLES, InclusionError, "are not in the tree"),
        (HEADER, (FormatError, ChallengeError), "."),
        (CHALLENGE, ChallengeError, "holds another challenge"),
    ],
)
def test_a_changed_byte_is_refused(
    name: str, error: type[Exception], says: str, sealed: Sealed, challenge: Path, changed: Callable[..., Path]
) -> None:
    def change(files: dict[str, bytes]) -> None:
        target = next(each for each in files if each.startswith(name))
        files[target] = flip(files[target])

    with pytest.raises(error, match=says):
        read_answer(sealed.intact, changed(change), challenge, sealed.policy)


@pytest.mark.parametrize(
    ("proof", "error", "says"),
    [
        (bytes(32), InclusionError, "longer than"),
        (b"..", FormatError, "hashes of 32 bytes"),
    ],
)
def test_a_longer_proof_is_refused(
    proof: bytes, error: type[Exception], says: str, sealed: Sealed, challenge: Path, changed: Callable[..., Path]
) -> None:
    def add(files: dict[str, bytes]) -> None:
        files[PROOF] += proof

    with pytest.raises(error, match=says):
        read_answer(sealed.intact, changed(add), challenge, sealed.policy)


def test_what_was_not_asked_for_is_refused(drawn: Sealed, tmp_path: Path) -> None:
    challenge = drawn.ask("few.json", samples=False)
    honest = drawn.answer(challenge, "few.opening")
    files = {one.name: Place(honest, one).read(one.name, 10**9) for one in read_archive(honest)}
    question = Question.decode(challenge.read_bytes())
    extra = next(e for e in checkpoints_of(drawn.recorded.claim) if e.step not in question.states)
    more: list[tuple[str, list[bytes]]] = [
        (name, [(drawn.recorded.claim / name).read_bytes()])
        for name in (manifest_name(extra.state), checkpoint_name(extra.state))
    ]
    cases = {"which was not asked for": more, "samples, which were not asked for": [(SAMPLES, [b""]), (PROOF, [b""])]}
    cases["is no file of an opening"] = [("notes.txt", [b""])]
    for number, (says, added) in enumerate(cases.items()):
        out = tmp_path / f"{number}.opening"
        write_archive(out, [*((name, [data]) for name, data in files.items()), *added])
        with pytest.raises((ChallengeError, FormatError), match=says):
            read_answer(drawn.intact, out, challenge, drawn.policy)


def test_a_challenge_that_asks_for_less_than_it_draws_is_refused(drawn: Sealed, tmp_path: Path) -> None:
    question = Question.decode(drawn.ask("whole.json", samples=False).read_bytes())
    easier = ask(drawn.intact, bytes(32), drawn.policy, samples=False)[0]
    last = question.segments[-1]
    less = replace(question, segments=question.segments[:-1], states=tuple(s for s in question.states if s != last[0]))
    for number, edited in enumerate((less, replace(easier, seed=SEED))):
        path = tmp_path / f"{number}.json"
        path.write_bytes(edited.encode())
        opening = drawn.answer(path, f"edited-{number}.opening")
        with pytest.raises(ChallengeError, match="does not ask for the segments that its seed draws"):
            read_answer(drawn.intact, opening, path, drawn.policy)


def test_figures_below_the_policys_are_said(drawn: Sealed, tmp_path: Path) -> None:
    weaker = replace(drawn.policy, top_updates=1)
    path = tmp_path / "c.json"
    path.write_bytes(ask(drawn.intact, SEED, weaker, samples=False)[0].encode())
    answered = read_answer(drawn.intact, drawn.answer(path, "weaker.opening"), path, drawn.policy)
    assert answered.missing == ("the policy has the 5 largest updates replayed, 1 were asked for",)
    assert len(answered.challenge.draws) == 4, "what the policy demands now adds no draw: the bound is not met"


def test_a_prover_is_asked_only_for_what_can_be_replayed(sealed: Sealed, challenge: Path, tmp_path: Path) -> None:
    question = Question.decode(challenge.read_bytes())
    for edited, says in (
        (replace(question, segments=((0, 10),)), "steps 0 to 10, which are no segment"),
        (replace(question, segments=((0, 5),), states=(0, 30)), "the state of step 30, which it does not replay"),
        (replace(question, other_samples=(10**6,)), "asks for sample 1000000"),
    ):
        with pytest.raises(ChallengeError, match=says):
            respond(sealed.run, edited.encode(), tmp_path / "r.opening", data=DATA)
    (tmp_path / "there").touch()
    with pytest.raises(UsageError, match="already"):
        respond(sealed.run, challenge.read_bytes(), tmp_path / "there", data=DATA)
    (tmp_path / "there").unlink()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError):
        respond(sealed.run, challenge.read_bytes(), tmp_path / "r.opening", data=empty)
    empty.rmdir()
    assert not list(tmp_path.iterdir()), "nothing half written may stay"


def test_a_state_that_the_run_has_lost_is_named(sealed: Sealed, challenge: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sealed.run, run)
    (run / checkpoint_name(checkpoints_of(sealed.recorded.claim)[2].state)).unlink()
    with pytest.raises(CheckpointMissingError, match="the state of step 10 is not there") as caught:
        respond(run, challenge.read_bytes(), tmp_path / "r.opening", data=DATA)
    assert "--allow-missing" in caught.value.hint
    done = respond(run, challenge.read_bytes(), tmp_path / "r.opening", data=DATA, samples=False, allow_missing=True)
    assert (done.missing, done.states) == ((10,), 12)


def test_closing_states_may_be_left_out_where_replay_is_exact(drawn: Sealed) -> None:
    challenge = drawn.ask("closings.json", closings=True, samples=False)
    whole, less = drawn.answer(challenge, "closings.opening"), drawn.answer(challenge, "less.opening", closings=False)
    assert less.stat().st_size < whole.stat().st_size
    assert not read_answer(drawn.intact, whole, challenge, drawn.policy).missing
    assert not read_answer(drawn.intact, less, challenge, drawn.policy).missing


def test_a_foreign_run_is_not_challenged(tmp_path: Path) -> None:
    from tests.runs import make_key, make_run

    run = make_run(tmp_path / "run", make_key(tmp_path / "key"), foreign=True)
    export(run, tmp_path / "claim")
    intact = check_integrity(Claim.read(tmp_path / "claim"), Policy())
    with pytest.raises(UsageError, match="there is nothing to challenge"):
        ask(intact, SEED, Policy())


def test_what_is_no_opening_is_said(sealed: Sealed, challenge: Path, opening: Path, tmp_path: Path) -> None:
    for path, own, says in (
        (challenge, challenge, "no opening at"),
        (sealed.claim, challenge, r"opening\.json: it is no opening"),
        (opening, tmp_path / "none.json", "cannot be read"),
    ):
        with pytest.raises(MissingFileError, match=says):
            read_answer(sealed.intact, path, own, sealed.policy)


def test_a_stolen_end_is_refuted_only_if_carelessness_can_be_told_from_it(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A claim with neither rows nor tensors, whose forger trained honestly, but for the end.
    shop = Workshop(recorded.claim)
    states, losses = shop.train(60)
    states[-1] = shop.states()[-1]
    claim = shop.claim(tmp_path / "claim", states, losses, withheld=range(len(states)))
    policy = replace(policy_of(recorded), keys=frozenset({shop.key.public}))
    intact = check_integrity(Claim.read(claim), policy)
    (tmp_path / "c.json").write_bytes(ask(intact, SEED, policy)[0].encode())
    store = CheckpointStore(tmp_path)
    shown = {store.put(state): (state.manifest, tmp_path / checkpoint_name(state.manifest.state())) for state in states}
    monkeypatch.setenv("POLCHAIN_DATA", str(DATA))
    samples = [encode_sample(sample) for sample in read()]
    proof = prove_inclusions([sample_leaf(sample) for sample in samples], range(len(samples)))
    pieces = list(pack_samples(dict(enumerate(samples))))
    write_opening(tmp_path / "r.opening", (tmp_path / "c.json").read_bytes(), shown, pieces, proof)

    # That a difference convicts is measured elsewhere, in several settings; here, whether it may.
    convicts = Examination(True, 1.0, 0.0, "the claimed model state is off")
    monkeypatch.setattr(doubts, "examine", lambda *arguments, **more: convicts)

    def judged() -> Verdict:
        asked, answer = tmp_path / "c.json", tmp_path / "r.opening"
        return verify(claim, policy, opening=answer, challenge=asked, data=NOWHERE, jobs=1)

    convicted = judged()
    assert convicted.outcome is Ruled.REFUTED
    assert any(reason.startswith("steps 55 to 60: the claimed ") for reason in convicted.reasons)
    monkeypatch.setattr(Held, "has", lambda self, batches: False)
    spared = judged()
    assert spared.outcome is Ruled.INCONCLUSIVE
    assert any("training straight from step 0 takes samples that are not" in reason for reason in spared.reasons)


def test_noise_in_an_opening_ends_in_a_named_error(
    sealed: Sealed, challenge: Path, opening: Path, tmp_path: Path
) -> None:
    honest = {one.name: Place(opening, one).read(one.name, 10**9) for one in read_archive(opening)}
    out = tmp_path / "noisy.opening"
    chance = random.Random(3)
    for _ in range(60):
        files = dict(honest)
        name = chance.choice(sorted(files))
        at, how = chance.randrange(len(files[name]) or 1), chance.randrange(4)
        if not files[name]:
            files[name] = bytes(32)  # the proof of all samples has no hash
        elif how == 0:
            files[name] = files[name][:at] + bytes([files[name][at] ^ 1 << chance.randrange(8)]) + files[name][at + 1 :]
        elif how == 1:
            files[name] = files[name][:at]
        elif how == 2:
            files[name] += chance.randbytes(1 + at % 40)
        else:
            files[chance.choice(["x", "samples.bin/x", f"checkpoints/{'0' * 64}.safetensors"])] = files.pop(name)
        out.unlink(missing_ok=True)
        write_archive(out, [(each, [data]) for each, data in files.items()])
        with pytest.raises(PolchainError) as caught:
            read_answer(sealed.intact, out, challenge, sealed.policy)
        assert str(caught.value).isprintable(), name
