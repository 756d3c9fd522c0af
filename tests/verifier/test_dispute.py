"""Disputes between real runs: every outcome of docs/disputes.md, and no thief wins.

The owner trained; each thief has the final weights, all checkpoints, data and recipe, but not the key and not the past.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from polchain.cli.app import main
from polchain.cli.dispute import show_ruling
from polchain.core.digest import Digest, sha256
from polchain.core.entries import CheckpointEntry, encode_entry, leaf_data
from polchain.core.keys import PrivateKey
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.merkle import leaf_hash
from polchain.errors import KeyMismatchError, UsageError
from polchain.verifier.dispute import rule_between
from polchain.verifier.ruling import Ruling
from tests.anchors.worlds import Anvil, AnvilWorld
from tests.claims import DATA, DIGITS, SCRIPTS, checkpoints_of, entries_of, record_once, write_log
from tests.court import is_mirror
from tests.disputes import NETWORKS, Foreigner, Lab, Prover, nearly, together, weights_of
from tests.forgers.forge import tensors_of
from tests.schema import violations

LAST = 16  # entries of a whole log


@dataclass
class Cast:
    """Who is there, in the order in which they published."""

    lab: Lab
    folder: Path
    earlier: Prover
    owner: Prover
    early_copy: Foreigner
    second: Prover
    early_relabelled: Prover
    early_near: Foreigner
    same_block: Foreigner
    weights: Path
    public: Path


@pytest.fixture(scope="module")
def lab(require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("disputes")
    config = folder / "config" / "polchain"
    config.mkdir(parents=True)
    (config / "networks.toml").write_text(NETWORKS)
    victim = record_once(tmp_path_factory, "digits-sgd", DIGITS, ("--optimizer", "sgd"))
    node = Anvil(require("anvil"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        with Lab(AnvilWorld(folder, node), victim.claim).open() as lab:
            yield lab
    node.stop()


@pytest.fixture(scope="module")
def cast(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Cast:
    """Everybody whose evidence has to come in a certain order."""
    folder = tmp_path_factory.mktemp("cast")
    earlier = Prover(lab, folder / "earlier").train()
    earlier.anchor(LAST)
    lab.wait()
    owner = Prover(lab, folder / "owner")
    owner.anchor(2)
    owner.train()
    second = Prover(lab, folder / "second", beacon=False).train()
    lab.wait()
    early_copy = Foreigner(lab, folder / "early-copy", [owner.weights])
    early_copy.anchor(2)
    early_relabelled = Prover(lab, folder / "early-relabelled", beacon=False).sign(owner.states)
    early_relabelled.anchor(LAST)
    early_near = Foreigner(lab, folder / "early-near", [nearly(second.weights)])
    early_near.anchor(2)
    lab.wait()
    owner.anchor(LAST)
    same_block = Foreigner(lab, folder / "same-block", [nearly(second.weights)])
    together(second, same_block)
    lab.wait()
    for name, log in (("weights", owner), ("public", earlier)):
        tensors = tensors_of(log.weights)
        save_file({row.removeprefix("model/"): tensors[row] for row in tensors}, folder / f"{name}.safetensors")
    return Cast(
        lab, folder, earlier, owner, early_copy, second, early_relabelled, early_near, same_block,
        folder / "weights.safetensors", folder / "public.safetensors",
    )  # fmt: skip


def words(ruling: Ruling) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(one.model, one.word, one.named) for one in ruling.models]


def both_ways(lab: Lab, one: Prover | Foreigner, other: Prover | Foreigner, model: Path | None = None) -> Ruling:
    """The ruling between two, once it was found to be the same the other way round."""
    ruling = lab.rule(one, other, model=model)
    mirrored = lab.rule(other, one, model=model)
    assert is_mirror(ruling, mirrored)
    return ruling


def test_two_independent_owners_are_each_named_for_their_own(cast: Cast) -> None:
    ruling = both_ways(cast.lab, cast.earlier, cast.owner)
    assert (ruling.word, ruling.exit_code, ruling.named) == ("INDEPENDENT", 0, ("A", "B"))
    assert words(ruling) == [
        ("the final state of A", "PROVEN", ("A",)),
        ("the final state of B", "PROVEN", ("B",)),
    ]
    assert [dict(claim.verdicts)[60].outcome.value for claim in ruling.claims] == ["VERIFIED", "VERIFIED"]


def test_an_honest_and_earlier_model_of_his_own_does_not_make_a_thief_the_owner(cast: Cast) -> None:
    ruling = both_ways(cast.lab, cast.earlier, cast.owner, cast.weights)
    assert words(ruling) == [("weights.safetensors", "PROVEN", ("B",))]
    assert ruling.sentence() == "weights.safetensors is B's: B covers it and worked for it, A does not cover it"


def test_a_copy_that_was_published_first_loses_to_a_seed_that_was_published_before_it(cast: Cast) -> None:
    ruling = both_ways(cast.lab, cast.owner, cast.early_copy, cast.weights)
    assert words(ruling) == [("weights.safetensors", "PROVEN", ("A",))]
    assert "A computed it from a seed that was published before B has any evidence of it" in ruling.sentence()


def test_a_forged_log_with_an_earlier_anchor_loses_to_an_earlier_seed(cast: Cast) -> None:
    ruling = both_ways(cast.lab, cast.owner, cast.early_relabelled)
    assert (ruling.word, ruling.named, ruling.exit_code) == ("PROVEN", ("A",), 0)
    assert ruling.sentence().startswith("the final state of A and of B are A's: A computed it")
    assert "B's checkpoint of step 60 is the final state of A and of B, exactly" in ruling.reasons()
    assert dict(ruling.claims[1].verdicts)[60].outcome.value == "REFUTED"


def test_the_owners_seed_passed_off_as_a_tasks_is_no_work(cast: Cast) -> None:
    """Anybody computes the owner's seed, and a task's is bound to nobody: the replay is exact, and proves nothing."""
    thief = Prover(cast.lab, cast.folder / "tasked", beacon=False)
    task = sha256(b"a task that the thief ordered himself")
    thief.genesis = thief.shop.genesis = replace(thief.genesis, task=task)
    thief.shop.start = replace(thief.shop.start, source="task", value=cast.second.shop.seed)
    thief.shop.seed, thief.shop.order = cast.second.shop.seed, cast.second.shop.order
    thief.sign(cast.second.states, [entry.loss for entry in checkpoints_of(cast.second.claim)])
    ruling = both_ways(cast.lab, cast.second, thief)
    assert (ruling.word, ruling.named) == ("DESCENDS", ("A",))
    verdict = dict(ruling.claims[1].verdicts)[60]
    assert all(item.outcome.name == "EXACT" for item in verdict.reproductions)
    assert not ruling.models[0].facts["B"].worked


def test_of_two_who_worked_for_the_same_weights_the_earlier_evidence_is_named(cast: Cast) -> None:
    """A convex problem has one answer: nobody copied, and both have it."""
    logs = []
    for name in ("convex-first", "convex-later"):
        log = Prover(cast.lab, cast.folder / name, script=SCRIPTS / "convex.py").train(24)
        log.anchor(log.size)
        cast.lab.wait()
        logs.append(log)
    ruling = both_ways(cast.lab, *logs)
    assert (ruling.word, ruling.named, ruling.exit_code) == ("EARLIER", ("A",), 0)
    assert "A was first; both worked" in ruling.sentence()
    assert all(side.worked for model in ruling.models for side in model.facts.values())


def test_a_relabelled_log_with_a_later_beacon_is_a_copy(cast: Cast) -> None:
    thief = Prover(cast.lab, cast.folder / "relabelled-beacon").sign(cast.second.states)
    thief.anchor(LAST)
    ruling = both_ways(cast.lab, cast.second, thief)
    assert (ruling.word, ruling.named) == ("PROVEN", ("A",))
    assert "A's state existed before the seed of B was known, so B copied" in ruling.sentence()
    assert dict(ruling.claims[1].verdicts)[60].outcome.value == "REFUTED"


def test_a_relabelled_log_with_a_seed_of_its_own_is_the_owners(cast: Cast) -> None:
    thief = Prover(cast.lab, cast.folder / "relabelled", beacon=False).sign(cast.second.states)
    thief.anchor(LAST)
    ruling = both_ways(cast.lab, cast.second, thief)
    assert (ruling.word, ruling.named, ruling.exit_code) == ("DESCENDS", ("A",), 0)


def test_a_later_copy_by_somebody_without_a_recipe_is_the_owners(cast: Cast) -> None:
    thief = Foreigner(cast.lab, cast.folder / "later-copy", [cast.owner.weights])
    ruling = both_ways(cast.lab, cast.owner, thief)
    assert (ruling.word, ruling.named) == ("PROVEN", ("A",))


def continued(cast: Cast, name: str) -> Prover:
    """A thief who begins with stolen weights and trains on, honestly from there."""
    thief = Prover(cast.lab, cast.folder / name)
    empty = thief.initial()
    rows = [row for row in empty.manifest.rows if not row.name.startswith("model/")]
    stolen = cast.owner.weights
    opening = Snapshot(Manifest.of([*stolen.manifest.rows, *rows]), {**empty.buffers, **stolen.buffers})
    with thief.shop.worker() as worker:
        batches = list(thief.shop.order.batches(0, 60))
        found = worker.replay(thief.shop.seed, 0, 60, batches, opening, stops=12)
    losses = [None, *(closing.loss for closing in found.closings)]
    return thief.sign([opening, *(closing.snapshot for closing in found.closings)], losses)


def test_training_continued_from_stolen_weights_descends_from_the_owner(cast: Cast) -> None:
    thief = continued(cast, "continued")
    thief.anchor(LAST)
    ruling = both_ways(cast.lab, cast.owner, thief)
    assert ruling.exit_code == 0
    assert words(ruling) == [
        ("the final state of A", "PROVEN", ("A",)),
        ("the final state of B", "DESCENDS", ("A",)),
    ]
    assert "A's: what B shows is made of states that A worked for" in ruling.sentence()
    (descent,) = [found for found in ruling.models[1].pairs[0].descents if found is not None]
    assert (descent.step, descent.elder) == (0, 60)


def test_a_visit_is_found_where_it_is_disputed(cast: Cast) -> None:
    thief = Prover(cast.lab, cast.folder / "visit")
    honest, losses = thief.shop.train(60)
    visited = [*honest]
    own = {row.name: row for row in honest[6].manifest.rows if not row.name.startswith("model/")}
    stolen = cast.owner.weights
    visited[6] = Snapshot(Manifest.of([*stolen.manifest.rows, *own.values()]), {**honest[6].buffers, **stolen.buffers})
    thief.sign(visited, losses)
    thief.anchor(LAST)
    ruling = both_ways(cast.lab, cast.owner, thief, cast.weights)
    assert ruling.named == ("A",)
    (last, verdict), *_ = ruling.claims[1].verdicts
    assert last == 30
    assert verdict.outcome.value == "REFUTED"
    assert any("in dispute" in item.pick.reasons for item in verdict.reproductions if item.pick is not None)


def test_a_near_copy_is_contested_if_its_evidence_is_earlier(cast: Cast) -> None:
    ruling = both_ways(cast.lab, cast.second, cast.early_near)
    assert (ruling.word, ruling.named, ruling.exit_code) == ("CONTESTED", (), 3)


def test_a_near_copy_in_the_same_block_is_undecided(cast: Cast) -> None:
    ruling = both_ways(cast.lab, cast.second, cast.same_block)
    assert (ruling.word, ruling.named, ruling.exit_code) == ("UNDECIDED", (), 3)
    assert "their evidence lies within the sources' error" in ruling.sentence()


def test_a_later_near_copy_is_the_owners(cast: Cast) -> None:
    thief = Foreigner(cast.lab, cast.folder / "later-near", [nearly(cast.second.weights)])
    thief.anchor(2)
    ruling = both_ways(cast.lab, cast.second, thief)
    assert (ruling.word, ruling.named) == ("PROVEN", ("A",))
    assert "A worked for it and has the earlier evidence, B did not" in ruling.sentence()
    assert "B's checkpoint of step 0 is the final state of A, within 0.0001" in ruling.reasons()


def test_without_any_evidence_of_time_nothing_is_decided_between_near_copies(cast: Cast) -> None:
    bare = cast.second.copy(cast.folder / "bare", anchors=False)
    thief = Foreigner(cast.lab, cast.folder / "bare-copy", [nearly(bare.weights)])
    ruling = both_ways(cast.lab, bare, thief)
    assert (ruling.word, ruling.exit_code) == ("UNDECIDED", 3)
    assert "neither has final evidence of when" in ruling.sentence()
    # And where the state before the disputed one is not disclosed, nobody is known to have worked.
    before = checkpoints_of(bare.claim)[-2]
    bare.drop(f"checkpoints/{before.state.hex}.safetensors", f"manifests/{before.state.hex}.json")
    ruling = both_ways(cast.lab, bare, thief)
    assert (ruling.word, ruling.exit_code) == ("NOT PROVEN", 3)


def test_a_model_that_neither_has_is_not_covered(cast: Cast) -> None:
    ruling = both_ways(cast.lab, cast.second, cast.early_near, cast.weights)
    assert (ruling.word, ruling.exit_code) == ("NOT COVERED", 3)
    assert ruling.claims[0].verdicts == (), "nothing is replayed for it"


def test_a_permuted_copy_is_pointed_out(cast: Cast) -> None:
    tensors = {name: tensor.flip(0) for name, tensor in tensors_of(cast.owner.weights).items()}
    path = cast.folder / "permuted.safetensors"
    save_file({name.removeprefix("model/"): tensor.contiguous() for name, tensor in tensors.items()}, path)
    ruling = cast.lab.rule(cast.owner, cast.earlier, model=path)
    assert ruling.word == "NOT COVERED"
    assert any("A: the state of step 60 has the sorted values of the model" in text for text in ruling.unchecked)
    assert any("permuted, rescaled or distilled copies may be missed" in text for text in ruling.unchecked)


def fine_tune(cast: Cast, name: str, parent: Digest | None = None, first: int = 0) -> Foreigner:
    """An honest fine-tune of the public model: its own loop, its own log."""
    base = cast.earlier.weights
    states = [base, nearly(base, 1.01), nearly(base, 1.02)]
    return Foreigner(cast.lab, cast.folder / name, states, parent, first)


def test_a_fine_tune_of_a_public_base_descends_from_nobody(cast: Cast) -> None:
    tuned = fine_tune(cast, "tuned")
    ruling = cast.lab.rule(tuned, cast.earlier, bases=[cast.public])
    assert words(ruling)[0] == ("the final state of A", "NOT PROVEN", ())
    assert words(ruling)[1] == ("the final state of B", "NOT COVERED", ())
    assert any("the final state of B is a public base of the policy: nobody's" in text for text in ruling.unchecked)
    # Unless the arbiter does not know that it is public: then it is its trainer's.
    assert words(cast.lab.rule(tuned, cast.earlier))[0] == ("the final state of A", "DESCENDS", ("B",))


def test_a_griefer_who_logged_the_base_is_nobodys_ancestor(cast: Cast) -> None:
    griefer = Foreigner(cast.lab, cast.folder / "griefer", [cast.earlier.weights])
    griefer.anchor(2)
    tuned = fine_tune(cast, "tuned-too")
    for bases in ([], [cast.public]):
        ruling = cast.lab.rule(tuned, griefer, bases=bases)
        assert words(ruling)[0] == ("the final state of A", "NOT PROVEN", ())
        assert ruling.named == ()
    ruling = both_ways(cast.lab, cast.earlier, griefer)
    assert ruling.named == ("A",), "against its trainer he has nothing either"


def test_a_declared_parent_is_honest_descent(cast: Cast) -> None:
    last = checkpoints_of(cast.earlier.claim)[-1]
    parent = Digest("sha256", leaf_hash(leaf_data(encode_entry(last))))
    ruling = both_ways(cast.lab, cast.earlier, fine_tune(cast, "declared", parent))
    assert words(ruling) == [
        ("the final state of A", "PROVEN", ("A",)),
        ("the final state of B", "CONTINUES", ("A", "B")),
    ]
    assert "B continues A's run, as it declares: A worked for that; B's own steps are not verified" in ruling.sentence()
    lying = fine_tune(cast, "declared-else", Digest("sha256", leaf_hash(b"another")))
    assert words(cast.lab.rule(cast.earlier, lying))[1] == ("the final state of B", "DESCENDS", ("A",))


def test_a_claim_that_fails_integrity_has_neither_worked_nor_evidence(cast: Cast, tmp_path: Path) -> None:
    broken = cast.owner.copy(tmp_path / "broken")
    (broken.claim / "entries.jsonl").write_bytes(b"{}\n")
    ruling = cast.lab.rule(broken, cast.early_copy, model=cast.weights)
    assert (ruling.word, ruling.named) == ("NOT PROVEN", ())
    assert ruling.reasons()[0].startswith("A fails integrity: entries.jsonl is not the file")


def test_two_histories_of_one_log_void_each_other(cast: Cast, tmp_path: Path) -> None:
    liar = cast.second.copy(tmp_path / "liar", anchors=False)
    fork = liar.copy(tmp_path / "fork")
    write_log(fork.claim, entries_of(liar.claim)[:-1], liar.key)
    with pytest.raises(UsageError, match="A and B are claims of one log, and agree"):
        cast.lab.rule(liar, fork)
    entries = [e for e in entries_of(liar.claim) if not (isinstance(e, CheckpointEntry) and e.step > 40)][:-1]
    last = entries[-1]
    assert isinstance(last, CheckpointEntry)
    for entry in checkpoints_of(liar.claim)[9:]:
        for name in (f"checkpoints/{entry.state.hex}.safetensors", f"manifests/{entry.state.hex}.json"):
            (fork.claim / name).unlink()
    other = {group: sha256(group.encode()) for group in last.roots}
    batches = checkpoints_of(liar.claim)[9].batches
    entries.append(CheckpointEntry(last.prev, 45, other, last.chain, batches, last.update, last.loss))
    write_log(fork.claim, entries, liar.key)
    ruling = cast.lab.rule(liar, fork, cast.owner)
    pair = ruling.models[0].pairs[0]
    assert pair.decision.outcome.value == "EQUIVOCATION"
    assert pair.sentence() == "A and B are one log, and contradict each other: neither counts from where they part"
    assert ruling.claims[0].proof == ruling.claims[1].proof
    assert ruling.claims[0].proof.count(liar.origin) >= 2, "both notes are there, whole"
    assert words(ruling)[-1] == ("the final state of C", "PROVEN", ("C",)), "a third party is not harmed"
    assert "A" not in ruling.named


def test_whoever_stole_a_key_signs_no_history_once_it_is_revoked(cast: Cast, tmp_path: Path) -> None:
    owner = Prover(cast.lab, cast.folder / "robbed", beacon=False, recovery=PrivateKey.generate()).train()
    owner.anchor(LAST)
    before = owner.copy(tmp_path / "before")
    # The thief has the key, and signs another end under it.
    fork = owner.copy(tmp_path / "fork", anchors=False)
    entries = entries_of(fork.claim)[:-1]
    last = entries[-1]
    assert isinstance(last, CheckpointEntry)
    for name in (f"checkpoints/{last.state.hex}.safetensors", f"manifests/{last.state.hex}.json"):
        (fork.claim / name).unlink()
    entries[-1] = CheckpointEntry(
        last.prev, 60, {group: sha256(group.encode()) for group in last.roots}, last.chain, last.batches, last.update
    )
    write_log(fork.claim, entries, owner.key)
    ruling = cast.lab.rule(before, fork)
    assert ruling.word == "EQUIVOCATION", "until somebody says that the key was stolen"
    owner.revoke().anchor(LAST + 1)
    cast.lab.wait()
    fork.anchor(LAST - 1, batch=True)
    for one, other in ((owner, fork), (fork, owner)):
        ruling = cast.lab.rule(one, other)
        name, thief = ("A", "B") if one is owner else ("B", "A")
        assert words(ruling) == [(f"the final state of {name}", "PROVEN", (name,))]
        reason = f"{thief} fails integrity: its key was revoked by the recovery key, in the log that {name} shows"
        assert reason in ruling.reasons()
    # The same notes by themselves convict nobody either.
    assert cast.lab.rule(owner, cast.second, heads={"a head": fork.note(LAST - 1)}).claims[0].failure == ""


def test_what_was_replayed_for_one_model_is_not_replayed_again_for_another(cast: Cast) -> None:
    """The thief went on from the owner's step 30: the owner is verified up to his end, and up to there."""
    half = weights_of(cast.owner.states[6])
    thief = Foreigner(cast.lab, cast.folder / "from-the-middle", [half, nearly(half, 1.01)])
    ruling = cast.lab.rule(cast.owner, thief)
    assert words(ruling)[1] == ("the final state of B", "DESCENDS", ("A",))
    assert any(reason.endswith("are, bit for bit, what A had trained by step 30") for reason in ruling.reasons())
    whole, part = (dict(ruling.claims[0].verdicts)[last] for last in (60, 30))
    assert {item.earlier for item in whole.reproductions} == {False}
    assert {item.earlier for item in part.reproductions if item.pick is not None} == {True}
    assert part.outcome.value == "VERIFIED"


def test_three_claims_are_ranked(cast: Cast) -> None:
    ruling = cast.lab.rule(cast.early_copy, cast.owner, cast.earlier, model=cast.weights)
    assert ruling.named == ("B",)
    assert ruling.models[0].ranking == (("B", 2), ("A", 0), ("C", 0))
    assert [(pair.left, pair.right) for pair in ruling.models[0].pairs] == [("A", "B"), ("A", "C"), ("B", "C")]


def test_the_keys_come_from_outside(cast: Cast) -> None:
    ruling = cast.lab.rule(cast.owner, cast.early_copy, model=cast.weights, pinned=False)
    assert (ruling.word, ruling.named) == ("NOT PROVEN", ())
    with pytest.raises(KeyMismatchError, match=r"^B: the claim is signed by"):
        only_owner(cast)


def only_owner(cast: Cast) -> None:
    from polchain.verifier.dispute import Case
    from polchain.verifier.policy import Policy

    policy = Policy(keys=frozenset({cast.owner.genesis.key}))
    rule_between(Case((cast.owner.claim, cast.earlier.claim), policy, Path()))


def test_a_claim_has_no_dispute_with_itself(cast: Cast) -> None:
    with pytest.raises(UsageError, match="one claim is named twice"):
        cast.lab.rule(cast.owner, cast.owner)
    with pytest.raises(UsageError, match="1 claims: a ruling takes 2"):
        cast.lab.rule(cast.owner)


def test_the_final_weights_in_another_form_are_the_same_model(cast: Cast) -> None:
    assert weights_of(cast.owner.states[-1]).manifest == cast.owner.weights.manifest
    tensors = tensors_of(cast.owner.weights)
    half = {f"module.{name.removeprefix('model/')}": tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(half, cast.folder / "half.safetensors")
    ruling = cast.lab.rule(cast.owner, cast.earlier, model=cast.folder / "half.safetensors")
    assert ruling.named == ("A",)


SCHEMA = Path(__file__).parents[2] / "docs" / "ruling.schema.json"


def command(cast: Cast, *logs: Prover | Foreigner, more: tuple[object, ...] = ()) -> list[str]:
    """What an arbiter types."""
    words: list[object] = ["verify", "--data", DATA, "--unsafe-no-sandbox", "--network", "proving"]
    words += ["--rpc", cast.lab.world.node.address]
    for log in logs:
        words += ["--claim", log.claim, "--key", log.genesis.key]
        if log.genesis.recipe is not None:
            words += ["--trust-recipe", log.genesis.recipe.program()]
    return [str(word) for word in (*words, *more)]


def test_the_command_prints_the_sentence_and_two_bars(cast: Cast, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(command(cast, cast.second, cast.early_near, more=("--model", cast.folder / "second.safetensors")))
    assert code == 4, "the file is not there"
    tensors = {name.removeprefix("model/"): tensor for name, tensor in tensors_of(cast.second.weights).items()}
    save_file(tensors, cast.folder / "second.safetensors")
    capsys.readouterr()
    code = main(command(cast, cast.second, cast.early_near, more=("--model", cast.folder / "second.safetensors")))
    out = capsys.readouterr().out
    assert code == 3
    lines = out.splitlines()
    assert lines[0] == "CONTESTED"
    assert lines[1] == "second.safetensors: contested: of A and B, the one that worked has the later evidence"
    bars = {line[0]: line for line in lines if line[1:4] == "  |"}
    assert bars["A"].index("#") > bars["B"].index("#"), "on one scale"
    assert bars["A"].endswith(", worked")
    assert bars["B"].endswith(", not verified")
    assert lines[3:5] == [f"A  {cast.second.claim}", f"   signed by {cast.second.genesis.key}"], "who A is comes first"
    assert "because" in out
    assert "permuted, rescaled or distilled copies may be missed" in out


def test_two_models_of_one_history_are_shown_once_and_fit_a_narrow_terminal(
    cast: Cast, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ruling = cast.lab.rule(cast.owner, cast.early_relabelled)
    show_ruling(ruling, as_json=False)
    wide = capsys.readouterr().out
    assert wide.count("A  |") == 1, "both final states are the same model"
    assert "\nwhen the final state of A and of B existed\nA  | " in wide, "blank until the beacon was known"
    assert "not before 20" in wide
    monkeypatch.setenv("COLUMNS", "50")
    show_ruling(ruling, as_json=False)
    narrow = capsys.readouterr().out
    assert [line for line in narrow.splitlines() if len(line) > 50 and not re.search(r"\S{45}", line)] == []
    assert "".join(narrow.split()) == "".join(wide.replace("; by 20", " by 20").split()), "nothing is lost"


def test_the_json_is_as_the_schema_has_it(cast: Cast, capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(SCHEMA.read_text())
    assert violations({"ruling": "PERHAPS"}, schema), "the checker can refuse"
    code = main(command(cast, cast.earlier, cast.owner, more=("--json",)))
    value = json.loads(capsys.readouterr().out)
    assert violations(value, schema) == []
    assert (code, value["ruling"], value["decided"], value["named"]) == (0, "INDEPENDENT", True, ["A", "B"])
    tuned = fine_tune(cast, "tuned-again")
    for ruling in (cast.lab.rule(tuned, cast.earlier), cast.lab.rule(cast.second, cast.early_near, cast.owner)):
        assert violations(json.loads(json.dumps(ruling.to_json())), schema) == []


def test_what_cannot_be_ruled_on_is_a_usage_error(cast: Cast, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--integrity-only"], ["--resume", "kept"], ["--task", "none.json", "--model", str(cast.weights)]):
        assert main([*command(cast, cast.earlier, cast.owner), *more]) == 2
    assert main(["verify", str(cast.owner.claim), "--model", str(cast.weights)]) == 2
    assert "a ruling takes several claims" in capsys.readouterr().err
