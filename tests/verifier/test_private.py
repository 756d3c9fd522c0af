"""Private data: recorded with salts, verified with the secret or by an opening that discloses no other salt."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polchain.cli.app import main
from polchain.core.archive import read_archive, write_archive
from polchain.core.claim import Claim
from polchain.core.keys import PrivateKey
from polchain.core.opening import PROOF, SALTS, SAMPLES, Opening
from polchain.core.place import Place
from polchain.core.salts import DataSecret
from polchain.core.samples import unpack_samples
from polchain.errors import ChallengeError, DataSecretError, DatasetError, FormatError, InclusionError, UsageError
from polchain.prover.export import export
from polchain.prover.opening import respond
from polchain.prover.thinning import thin
from polchain.storage.keyfile import PassphraseSource, read_key, write_key
from polchain.storage.secretfile import SECRET, read_secret, write_secret
from polchain.training.dataset import encode_sample, sample_leaf
from polchain.verifier import parties
from polchain.verifier import verify as verifying
from polchain.verifier.against import check_claim
from polchain.verifier.calibrate import Subject
from polchain.verifier.dispute import Case, rule_between
from polchain.verifier.integrity import IntactClaim, check_integrity
from polchain.verifier.policy import Policy
from polchain.verifier.ruling import Ruling
from polchain.verifier.sealed import ask, read_answer
from polchain.verifier.sitting import Request, _check_data
from polchain.verifier.verdict import Ruled, Verdict
from polchain.verifier.verify import verify, verify_intact
from tests.claims import DATA, DIGITS, Recorded, copy_of, entries_of, genesis_of
from tests.scripts.digits import read

SEED = bytes(range(32))
WORDS = ("--steps", "4", "--every", "2")


@dataclass(frozen=True)
class Private:
    """A private run, and a verifier at work on its claims."""

    folder: Path
    policy: Policy

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def secret(self) -> DataSecret:
        return read_secret(self.run / SECRET)

    def intact(self, name: str = "claim") -> IntactClaim:
        return check_integrity(Claim.read(self.folder / name), self.policy)

    def verify(self, data_secret: Path | None = None, **more: Any) -> Verdict:
        more = {"data": DATA, "jobs": 1, "seed": SEED, **more}
        return verify(self.folder / more.pop("claim", "claim"), self.policy, data_secret=data_secret, **more)

    def answer(self, opening: Path, challenge: str = "c.json") -> Verdict:
        nowhere = Path("/nonexistent")
        how = {"opening": opening, "challenge": self.folder / challenge, "data": nowhere, "seed": None}
        return self.verify(claim="sealed.zip", **how)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Private:
    """Begun by `polchain init --private-data`, trained by hand: four steps, half of the samples."""
    folder = tmp_path_factory.mktemp("private")
    write_key(folder / "key", PrivateKey.generate(), None)
    script = folder / DIGITS.name
    script.write_text(DIGITS.read_text())
    environment = {"POLCHAIN_KEY_FILE": str(folder / "key"), "POLCHAIN_DATA": str(DATA), "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        begun = main(["init", "run", "--recipe", str(script), "--private-data", "--", *WORDS])
        assert begun == 0
        done = subprocess.run([sys.executable, script, *WORDS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    export(folder / "run", folder / "claim")
    export(folder / "run", folder / "sealed.zip", sealed=True)
    recipe, key = genesis_of(entries_of(folder / "claim")).recipe, read_key(folder / "key", PassphraseSource())
    assert recipe is not None
    policy = Policy(keys=frozenset({key.public}), recipes=frozenset({recipe.program()}))
    made = Private(folder, policy)
    (folder / "c.json").write_bytes(ask(made.intact("sealed.zip"), SEED, policy)[0].encode())
    return made


@pytest.fixture(scope="module")
def opening(private: Private) -> Path:
    out = private.folder / "r.opening"
    respond(private.run, (private.folder / "c.json").read_bytes(), out, data=DATA)
    return out


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """Another run's secret."""
    write_secret(tmp_path / "theirs", DataSecret(bytes(32)))
    return tmp_path / "theirs"


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


def test_the_genesis_commits_to_a_secret_that_the_run_keeps_for_itself(private: Private) -> None:
    dataset = private.intact().genesis.dataset
    assert dataset is not None
    assert dataset.salts == private.secret.commitment
    assert (private.run / SECRET).stat().st_mode & 0o777 == 0o600


def test_with_the_secret_a_private_claim_is_verified(private: Private) -> None:
    verdict = private.verify(private.run / SECRET)
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert verdict.bound.replayed == 4


def test_without_the_secret_nothing_is_replayed_and_that_is_said(private: Private) -> None:
    with pytest.raises(DataSecretError, match="the secret that it is salted with is not at hand") as caught:
        private.verify()
    assert (caught.value.exit_code, "--data-secret FILE" in caught.value.hint) == (4, True)


def test_anothers_secret_is_an_error_and_no_verdict(private: Private, stranger: Path, recorded: Recorded) -> None:
    with pytest.raises(DataSecretError, match="another secret than the one that the claim's data is salted with"):
        private.verify(stranger)
    with pytest.raises(DataSecretError, match="is not private, and no secret belongs to it"):
        verify(recorded.claim, Policy(), data_secret=private.run / SECRET, data=DATA)


def test_the_command_line_names_the_error(private: Private, stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim = str(private.folder / "claim")
    for words in ([], ["--data-secret", str(stranger)]):
        assert main(["verify", claim, "--key", str(private.folder / "key.pub"), "--json", *words]) == 4
        assert json.loads(capsys.readouterr().out)["error"]["name"] == "DataSecretError"
    assert main(["verify", claim, "--integrity-only"]) == 0, "the log alone takes no secret"


def test_other_data_under_the_right_secret_is_other_data(private: Private) -> None:
    intact = private.intact()
    assert intact.genesis.configuration is not None
    leaves = tuple(sample_leaf(encode_sample(sample)) for sample in read_there())
    assert _check_data(intact, intact.genesis.configuration, leaves, private.secret) == []
    for wrong in ((leaves[::-1], private.secret), (leaves, DataSecret(bytes(32))), (leaves, None)):
        with pytest.raises(DatasetError, match="512 samples as committed, but other contents"):
            _check_data(intact, intact.genesis.configuration, *wrong)
    salted = tuple(private.secret.leaves(leaves))
    with pytest.raises(DatasetError):  # leaves that a recipe salted itself, as if the data were plain
        _check_data(intact, intact.genesis.configuration, salted, None)


def test_an_opening_gives_the_same_verdict_without_the_secret(private: Private, opening: Path) -> None:
    verdict = private.answer(opening)
    assert verdict.outcome is Ruled.VERIFIED, verdict.reasons
    assert verdict.bound.replayed == 4
    assert [test.finding.value for test in verdict.behaviour] == ["passed"] * 3


def test_an_opening_holds_the_salts_of_the_drawn_samples_and_of_no_other(private: Private, opening: Path) -> None:
    found = Opening.read(opening)
    assert found.samples is not None
    drawn = list(unpack_samples(found.samples.map(), most=512, limit=10**6))
    assert 128 <= len(drawn) < 256, "few enough that most salts stay hidden"
    secret, leaves = private.secret, [sample_leaf(encode_sample(sample)) for sample in read_there()]
    salts = [secret.salt(index, leaf) for index, leaf in enumerate(leaves)]
    assert found.salts == tuple(salts[index] for index in drawn)
    data = opening.read_bytes()
    whole = data + b"".join(path.read_bytes() for path in (private.folder / "claim").rglob("*") if path.is_file())
    assert salts[drawn[0]] in whole, "the search would find one"
    hidden = [secret.value, *(salts[index] for index in range(512) if index not in drawn)]
    for value in hidden:
        assert value not in whole
        assert value.hex().encode() not in whole.lower()


def test_a_proof_confirms_no_guess_at_a_sample_that_it_does_not_disclose(private: Private, opening: Path) -> None:
    found = Opening.read(opening)
    assert found.samples is not None
    drawn = unpack_samples(found.samples.map(), most=512, limit=10**6)
    guesses = {sample_leaf(encode_sample(sample)): index for index, sample in enumerate(read_there())}
    assert guesses.keys().isdisjoint(found.proof), "every sample guessed right, and none of them confirmed"
    salted = {private.secret.leaves(list(guesses))[index] for index in range(512) if index not in drawn}
    assert salted & set(found.proof), "the proof does hold leaf hashes: the secret would confirm the guesses"


def read_there() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLCHAIN_DATA", str(DATA))
        return read()


def swap(files: dict[str, bytes]) -> None:
    salts = files[SALTS]
    files[SALTS] = salts[32:64] + salts[:32] + salts[64:]


def blank(files: dict[str, bytes]) -> None:
    files[SALTS] = bytes(len(files[SALTS]))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (swap, InclusionError, "are not in the tree"),
        (blank, InclusionError, "are not in the tree"),
        (lambda files: files.update({SALTS: files[SALTS][:-32]}), FormatError, "samples take as many salts, not"),
        (lambda files: files.update({SALTS: files[SALTS] + bytes(32)}), FormatError, "samples take as many salts, not"),
        (lambda files: files.pop(SALTS), FormatError, "the data is private: .* take as many salts, not 0"),
        (lambda files: [files.pop(SAMPLES), files.pop(PROOF)], FormatError, "salts come with samples"),
    ],
)
def test_what_is_no_opening_of_private_data_is_refused(
    change: Callable[[dict[str, bytes]], object],
    error: type[Exception],
    says: str,
    private: Private,
    changed: Callable[..., Path],
) -> None:
    with pytest.raises(error, match=says):
        read_answer(private.intact("sealed.zip"), changed(change), private.folder / "c.json", private.policy)


def test_noise_among_the_salts_ends_in_a_named_error(private: Private, changed: Callable[..., Path]) -> None:
    chance, intact = random.Random(5), private.intact("sealed.zip")

    def disturb(files: dict[str, bytes]) -> None:
        salts = bytearray(files[SALTS])
        at = chance.randrange(len(salts))
        salts[at : at + chance.randrange(3)] = chance.randbytes(chance.choice([0, 1, 2, 32, 64]))
        if bytes(salts) == files[SALTS]:
            salts[at] ^= 1
        files[SALTS] = bytes(salts)

    for _ in range(25):
        with pytest.raises((FormatError, InclusionError)):
            read_answer(intact, changed(disturb), private.folder / "c.json", private.policy)


def test_salts_of_plain_data_are_refused(private: Private, opening: Path) -> None:
    intact = private.intact("sealed.zip")
    assert intact.genesis.dataset is not None
    plain_genesis = replace(intact.genesis, dataset=replace(intact.genesis.dataset, salts=None))
    with pytest.raises(ChallengeError, match="holds salts, and the data is not private"):
        read_answer(replace(intact, genesis=plain_genesis), opening, private.folder / "c.json", private.policy)


def test_an_opening_without_samples_takes_data_and_secret(private: Private, changed: Callable[..., Path]) -> None:
    def drop(files: dict[str, bytes]) -> None:
        del files[SAMPLES], files[PROOF], files[SALTS]

    with pytest.raises(DataSecretError, match="is not at hand"):
        private.answer(changed(drop))


def test_a_run_that_lost_its_secret_answers_nothing(private: Private, tmp_path: Path, stranger: Path) -> None:
    run = copy_of(private.run, tmp_path / "run")
    (run / SECRET).unlink()
    challenge = (private.folder / "c.json").read_bytes()
    with pytest.raises(DataSecretError, match=r"data\.secret is gone"):
        respond(run, challenge, tmp_path / "r.opening", data=DATA)
    os.rename(stranger, run / SECRET)
    with pytest.raises(DataSecretError, match="another secret than the one that this run's data"):
        respond(run, challenge, tmp_path / "r.opening", data=DATA)
    assert not (tmp_path / "r.opening").exists()
    assert respond(run, challenge, tmp_path / "r.opening", data=DATA, samples=False).samples == 0


def test_no_claim_holds_the_secret(private: Private, tmp_path: Path) -> None:
    assert not list((private.folder / "claim").rglob(SECRET))
    smuggled = copy_of(private.folder / "claim", tmp_path / "claim")
    (smuggled / SECRET).write_bytes(private.secret.encode())
    with pytest.raises(FormatError):
        check_integrity(Claim.read(smuggled), private.policy)


def test_the_recipe_never_sees_the_secret(private: Private, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not its file, which may lie in the data folder."""
    hidden: list[Path] = []

    def stop(data: Path, paths: list[Path], allowance: object) -> None:
        hidden.extend(paths)
        raise RuntimeError

    monkeypatch.setattr(verifying, "find_sandbox", stop)
    path = private.run / SECRET
    request = Request(private.folder / "claim", private.policy, private.run, secrets={path: private.secret})
    with pytest.raises(RuntimeError):
        verify_intact(private.intact(), request)
    assert path in hidden


def test_a_calibration_is_of_private_data_with_its_secret_alone(private: Private) -> None:
    intact = private.intact()
    configuration, recipe = intact.genesis.configuration, intact.genesis.recipe
    leaves = tuple(sample_leaf(encode_sample(sample)) for sample in read_there())
    worker: Any = SimpleNamespace(commit_dataset=lambda: (configuration, leaves))
    program: Any = SimpleNamespace(ref=recipe)
    children: Any = SimpleNamespace(worker=lambda setting: worker, program=program)
    machine: Any = SimpleNamespace(setting=None)
    ours = Subject.of(children, machine, private.secret)
    assert ours.dataset == intact.genesis.dataset
    check_claim(ours, intact)
    with pytest.raises(UsageError, match="other data") as caught:
        check_claim(Subject.of(children, machine), intact)
    assert "--data-secret FILE" in caught.value.hint


class TestRulings:
    @pytest.fixture
    def ruled(
        self, private: Private, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., tuple[Ruling, dict[Path, int]]]:
        """A ruling between the private claim and a plain one, in which nothing is replayed."""

        def rule(*secrets: Path) -> tuple[Ruling, dict[Path, int]]:
            given: dict[Path, int] = {}

            def unreplayed(intact: IntactClaim, request: Request, progress: object) -> Verdict:
                given[request.claim] = len(request.secrets)
                verifying._check_secrets(intact, request)
                policy = replace(request.policy, recipes=frozenset())
                return verify_intact(intact, replace(request, policy=policy))

            monkeypatch.setattr(parties, "verify_intact", unreplayed)
            monkeypatch.setattr(verifying, "_sandbox", lambda request: (None, "none: a test"))
            claims = (private.folder / "claim", recorded.claim)
            case = Case(claims, Policy(), DATA, jobs=1, secrets={path: read_secret(path) for path in secrets})
            return rule_between(case), given

        return rule

    def test_each_claim_is_verified_with_its_own_secret(
        self, ruled: Callable[..., Any], private: Private, recorded: Recorded
    ) -> None:
        ruling, given = ruled(private.run / SECRET)
        assert given == {private.folder / "claim": 1, recorded.claim: 0}
        assert not any("secret" in remark for facts in ruling.claims for remark in facts.remarks)

    def test_a_secret_of_none_of_the_claims_is_an_error(self, ruled: Callable[..., Any], stranger: Path) -> None:
        with pytest.raises(DataSecretError, match="is the secret of none of these claims"):
            ruled(stranger)


def test_a_thinned_private_run_answers_as_the_whole_one_does(private: Private, opening: Path, tmp_path: Path) -> None:
    shutil.copytree(private.run, tmp_path / "run")
    assert thin(tmp_path / "run", 4, DATA).removed == 1
    answer = respond(tmp_path / "run", (private.folder / "c.json").read_bytes(), tmp_path / "again", data=DATA)
    assert (answer.private, answer.missing) == (True, ())
    assert (tmp_path / "again").read_bytes() == opening.read_bytes()
