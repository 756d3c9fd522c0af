"""Thieves before an arbiter: whatever they show, and however early it is dated, nobody names them.

The owner trained 60 steps under a seed of his own choice, the weakest there is, and published last. The thieves have
his weights, checkpoints, data and recipe; when they published is simulated, and always before him.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.published_check import tensors_of
from polchain.core.digest import Digest
from polchain.core.entries import Final, encode_entry, leaf_data
from polchain.core.keys import PrivateKey
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.merkle import leaf_hash
from polchain.core.rows import TensorRow
from polchain.errors import UsageError
from polchain.storage.checkpoints import CheckpointStore
from polchain.training import matching
from polchain.verifier.ruling import Ruling
from tests.claims import Recorded, checkpoints_of, copy_of, entries_of, write_listing, write_log
from tests.court import Court, Dates, foreign_claim
from tests.disputes import nearly, weights_of
from tests.forgers.attacks import glue, planted_recipe, relayed_momentum, resigned_copy, visit
from tests.forgers.forge import Forgery, with_rows
from tests.forgers.victims import forger

EARLY, LATE = Dates(evidence=100), Dates(evidence=200)
REGISTERED = Dates(evidence=200, start=60, beacon=50)


@dataclass
class Owner:
    """Whose model it is: his claim, its states, the published weights; and the court."""

    court: Court
    claim: Path
    states: list[Snapshot]
    weights: Path
    folder: Path

    def against(self, thief: Path, model: Path | None = None, **options: object) -> Ruling:
        """The ruling between him (A) and a thief (B) who published first, both ways; no thief wins, whatever it is."""
        self.court.dates[thief] = EARLY
        ruling = self.court.both_ways(self.claim, thief, model=model, **options)
        assert "B" not in ruling.named, ruling.sentence()
        for found in ruling.models:
            (pair,) = found.pairs
            assert pair.descents[0] is None, "the owner descends from nobody"
        assert ruling.word != "EQUIVOCATION"
        assert {verdict.outcome.value for _, verdict in ruling.claims[0].verdicts} <= {"VERIFIED"}
        return ruling

    def logs(self, *states: Snapshot, **options: object) -> Path:
        """A thief's log of these states."""
        return foreign_claim(self.folder / f"log-{len(list(self.folder.iterdir()))}", states, **options)  # type: ignore[arg-type]

    def file(self, tensors: dict[str, torch.Tensor]) -> Path:
        """A weight file."""
        path = self.folder / f"{len(list(self.folder.iterdir()))}.safetensors"
        save_file({name.removeprefix("model/"): tensor.contiguous() for name, tensor in tensors.items()}, path)
        return path


@pytest.fixture(scope="module")
def owner(sgd_victim: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    folder = tmp_path_factory.mktemp("thieves")
    store = CheckpointStore(sgd_victim.claim)
    states = [store.get(entry.state) for entry in checkpoints_of(sgd_victim.claim)]
    with Court().open() as court:
        court.dates[sgd_victim.claim] = LATE
        owner = Owner(court, sgd_victim.claim, states, folder, folder)
        owner.weights = owner.file(tensors_of(states[-1]))
        yield owner


def outcome(ruling: Ruling) -> tuple[str, tuple[str, ...]]:
    return ruling.word, ruling.named


# Forgers of floor 3; all of them, over several seeds: benchmarks/thieves.py


def planted(claim: Path) -> Forgery:
    return planted_recipe.forge(planted_recipe.workshop(forger(claim, "planted"), "init"))


@pytest.mark.parametrize(
    ("make", "verdict", "words"),
    [
        pytest.param(lambda c: resigned_copy.forge(forger(c, "copy")), "REFUTED", ("DESCENDS", ("A",)), id="re-signed"),
        pytest.param(lambda c: glue.forge(forger(c, "glue"), 6), "REFUTED", ("DESCENDS", ("A",)), id="glue"),
        pytest.param(
            lambda c: visit.forge(forger(c, "visit"), 6, plain=False), "REFUTED", ("DESCENDS", ("A",)), id="visit"
        ),
        pytest.param(
            lambda c: relayed_momentum.forge(forger(c, "relay"), 8),
            "REFUTED",
            ("PROVEN", ("A",)),
            id="relayed momentum",
        ),
        pytest.param(planted, "COMPUTED", ("CONTESTED", ()), id="planted recipe"),
    ],
)
def test_a_forger_whose_anchor_is_earlier_is_not_named(
    owner: Owner, make: Callable[[Path], Forgery], verdict: str, words: tuple[str, tuple[str, ...]], tmp_path: Path
) -> None:
    thief = make(owner.claim).claim(tmp_path / "claim")
    untrusted = [thief] if verdict == "COMPUTED" else []
    ruling = owner.against(thief, owner.weights, untrusted=untrusted)
    assert outcome(ruling) == words, ruling.sentence()
    assert all(found.outcome.value == verdict for _, found in ruling.claims[1].verdicts), ruling.reasons()
    # With a seed from a beacon that was published before the thief's claim, nothing is left to ask.
    owner.court.dates[owner.claim] = REGISTERED
    try:
        assert outcome(owner.against(thief, owner.weights, untrusted=untrusted)) == ("PROVEN", ("A",))
    finally:
        owner.court.dates[owner.claim] = LATE


# Whatever else a thief may think of


def test_a_near_copy_that_was_first_is_contested_and_no_more(owner: Owner) -> None:
    assert outcome(owner.against(owner.logs(nearly(weights_of(owner.states[-1]))))) == ("CONTESTED", ())


def test_what_is_put_beside_stolen_weights_does_not_hide_them(owner: Owner) -> None:
    stolen = weights_of(owner.states[-1])
    junk = {"model/padding": torch.randn(300, 300)}
    padded = with_rows(stolen, junk, roles={"model/padding": "parameter"})
    assert outcome(owner.against(owner.logs(padded), owner.weights)) == ("DESCENDS", ("A",))
    average = {f"extra/ema/{name.removeprefix('model/')}": value for name, value in tensors_of(stolen).items()}
    rows = Manifest.of([row for row in padded.manifest.rows if row.name == "model/padding"])
    beside = with_rows(Snapshot(rows, {"model/padding": padded.buffers["model/padding"]}), average)
    assert outcome(owner.against(owner.logs(beside), owner.weights)) == ("DESCENDS", ("A",))


def test_a_sealed_copy_is_a_copy(owner: Owner) -> None:
    sealed = owner.logs(weights_of(owner.states[-1]), shown=False)
    ruling = owner.against(sealed, owner.weights)
    assert outcome(ruling) == ("DESCENDS", ("A",)), (ruling.sentence(), ruling.unchecked)


def test_a_parent_excuses_nothing_that_its_log_has_as_well(owner: Owner) -> None:
    """He says that he went on from the owner's fifth step, and shows what the owner had in the end; or backwards."""
    fifth = checkpoints_of(owner.claim)[1]
    parent = Digest("sha256", leaf_hash(leaf_data(encode_entry(fifth))))
    begun, last = weights_of(owner.states[1]), weights_of(owner.states[-1])
    for end in (nearly(last), last):
        assert outcome(owner.against(owner.logs(begun, end, parent=parent), owner.weights)) == ("DESCENDS", ("A",))
    final = checkpoints_of(owner.claim)[-1]
    parent_too = Digest("sha256", leaf_hash(leaf_data(encode_entry(final))))
    middle = weights_of(owner.states[6])
    back = owner.logs(last, nearly(middle), parent=parent_too)
    assert outcome(owner.against(back, owner.file(tensors_of(middle)))) == ("DESCENDS", ("A",))
    own = with_rows(begun, {name: tensor + 0.1 for name, tensor in tensors_of(begun).items()})
    honest = owner.logs(begun, own, parent=parent)
    owner.court.dates[honest] = EARLY
    ruling = owner.court.both_ways(owner.claim, honest)
    assert ("CONTINUES", ("A", "B")) in [(found.word, found.named) for found in ruling.models], (
        "honest descent stays so"
    )


def test_a_log_of_fewer_bits_does_not_cover_the_model(owner: Owner) -> None:
    coarse = {name: tensor.to(torch.float8_e5m2) for name, tensor in tensors_of(owner.states[-1]).items()}
    rounded = with_rows(weights_of(owner.states[-1]), coarse)
    ruling = owner.against(owner.logs(rounded))
    assert [found.word for found in ruling.models] == ["PROVEN", "CONTESTED"], "his own rounding is what he has"
    assert ruling.models[0].named == ("A",)


def test_constants_are_nobodys_model(owner: Owner, sgd_victim: Recorded) -> None:
    """A file that everybody's state holds, shown by whoever has an honest run of his own and was first."""
    own = Forgery(forger(owner.claim, "own model"), *forger(owner.claim, "own model").train(60))
    thief = own.claim(owner.folder / "own")
    zeros = torch.zeros(10)
    states = [with_rows(state, {"model/zeros": zeros}, roles={"model/zeros": "parameter"}) for state in own.states[-1:]]
    ruling = owner.against(owner.logs(*states), owner.file({"zeros": zeros}))
    assert outcome(ruling) == ("NOT COVERED", ())
    assert any("is nobody's: none of its tensors has two values" in text for text in ruling.unchecked)
    assert outcome(owner.against(thief, owner.weights)) == ("PROVEN", ("A",))


def test_a_file_with_one_tensor_more_is_still_the_owners(owner: Owner) -> None:
    stolen = weights_of(owner.states[-1])
    for extra in (torch.tensor([0.25]), torch.full((2, 2), torch.nan), torch.zeros(0)):
        row = {"model/mine": extra}
        thief = owner.logs(with_rows(stolen, row, roles={"model/mine": "parameter"}))
        ruling = owner.against(thief, owner.file({**tensors_of(stolen), **row}))
        assert outcome(ruling) == ("DESCENDS", ("A",)), ruling.sentence()
    whole = owner.file({**tensors_of(stolen), "table": torch.arange(40).reshape(4, 10)})
    ruling = owner.against(owner.logs(stolen), whole)
    assert any("1 of its tensors are of no floating type, and were not compared" in text for text in ruling.unchecked)


def test_reshaped_weights_are_the_same_weights(owner: Owner) -> None:
    flat = {name: tensor.reshape(-1) for name, tensor in tensors_of(owner.states[-1]).items()}
    stolen = Snapshot(Manifest(()), {})
    thief = owner.logs(with_rows(stolen, flat, roles=dict.fromkeys(flat, "parameter")))
    for model in (owner.weights, owner.file(flat)):
        assert outcome(owner.against(thief, model)) == ("DESCENDS", ("A",))


def test_a_log_with_nothing_in_it_covers_nothing(owner: Owner, tmp_path: Path) -> None:
    begun = forger(owner.claim, "begun")
    first = begun.claim(tmp_path / "first", [begun.initial()])
    entries = [entry for entry in entries_of(first) if not isinstance(entry, Final)]
    write_log(first, entries, begun.key)
    empty = tmp_path / "empty"
    write_log(empty, [begun.genesis], begun.key)
    bare = owner.logs()
    for thief in (first, empty, bare):
        assert outcome(owner.against(thief, owner.weights)) == ("PROVEN", ("A",))
        ruling = owner.against(thief)
        assert ruling.models[0].named == ("A",)


def test_many_claims_are_no_more_than_one(owner: Owner) -> None:
    copies = [owner.logs(weights_of(owner.states[-1])) for _ in range(3)]
    key = PrivateKey.generate()
    copies += [owner.logs(weights_of(owner.states[place]), weights_of(owner.states[-1]), key=key) for place in (2, 3)]
    for thief in copies:
        owner.court.dates[thief] = EARLY
    ruling = owner.court.rule(*copies, owner.claim, model=owner.weights)
    assert ruling.named == ("F",)
    assert dict(ruling.models[0].ranking) == {"F": 5, "A": 0, "B": 0, "C": 0, "D": 0, "E": 0}


def test_the_same_claim_under_another_name_is_no_second_one(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(owner.claim)
    with pytest.raises(UsageError, match="one claim is named twice"):
        owner.court.rule(owner.claim, tmp_path / "link")
    other = copy_of(owner.claim, tmp_path / "copy")
    with pytest.raises(UsageError, match="A and B are claims of one log, and agree"):
        owner.court.rule(owner.claim, other, model=owner.weights)


def test_evidence_from_the_future_is_the_latest(owner: Owner) -> None:
    thief = owner.logs(nearly(weights_of(owner.states[-1])))
    owner.court.dates[thief] = Dates(evidence=2**40)
    assert outcome(owner.court.both_ways(owner.claim, thief)) == ("PROVEN", ("A",))


def test_what_came_after_the_disputed_state_does_not_harm(owner: Owner, tmp_path: Path) -> None:
    """The thief logs a later state of the owner's too, around which the owner cannot show everything."""
    thinned = copy_of(owner.claim, tmp_path / "thinned")
    gone = checkpoints_of(thinned)[10]
    for name in (f"checkpoints/{gone.state.hex}.safetensors", f"manifests/{gone.state.hex}.json"):
        (thinned / name).unlink()  # not even rows, with which it could be trained again
    write_listing(thinned)
    middle = weights_of(owner.states[6])
    thief = owner.logs(weights_of(owner.states[-2]), nearly(middle))
    owner.court.dates |= {thief: LATE, thinned: EARLY}
    ruling = owner.court.both_ways(thinned, thief, model=owner.file(tensors_of(middle)))
    assert outcome(ruling) == ("PROVEN", ("A",)), ruling.reasons()


def test_nothing_is_known_to_be_made_by_a_log_that_hides_its_beginning(owner: Owner, tmp_path: Path) -> None:
    """What it began with, such as a frozen table that everybody's run has, would else count as its own."""
    hiding = copy_of(owner.claim, tmp_path / "hiding")
    first = checkpoints_of(hiding)[0]
    for name in (f"checkpoints/{first.state.hex}.safetensors", f"manifests/{first.state.hex}.json"):
        (hiding / name).unlink()
    write_listing(hiding)
    thief = owner.logs(weights_of(owner.states[-1]))
    owner.court.dates |= {thief: EARLY, hiding: LATE}
    (found,) = owner.court.both_ways(hiding, thief, model=owner.weights).models
    assert found.pairs[0].descents == (None, None)


def test_tensors_that_all_look_alike_are_not_compared_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has the same largest value, and so would be sorted against each."""
    torch.manual_seed(1)
    tables = [torch.nn.functional.normalize(torch.rand(16, 16), dim=None) for _ in range(400)]
    peak = max(float(table.max()) for table in tables)
    alike = []
    for table in tables:
        flat = table.flatten()
        flat[0] = 0.0
        flat *= (1 - peak**2) ** 0.5 / flat.norm()
        flat[0] = peak
        alike.append(flat.reshape(16, 16))
    states = [
        with_rows(Snapshot(Manifest(()), {}), rows, roles=dict.fromkeys(rows, "parameter"))
        for rows in ({f"model/{i}": t for i, t in enumerate(alike)}, {f"model/{i}": -t.T for i, t in enumerate(alike)})
    ]
    seen = 0
    real = matching.Spread.values

    def counted(spread: matching.Spread, row: TensorRow) -> torch.Tensor:
        nonlocal seen
        seen += 1
        return real(spread, row)

    monkeypatch.setattr(matching.Spread, "values", counted)
    assert not matching.same_values(*states, 1e-9)
    assert 0 < seen <= 2 * matching.MOST_SORTED
