"""Receipts, heads and beacons with one thing changed: a named error, or nothing that matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polchain.anchors.receipts import FiledReceipt
from polchain.anchors.tsa import Tsa
from polchain.core.claim import write_listing
from polchain.core.encoding import JSON, decode, encode
from polchain.errors import EvidenceError
from polchain.verifier.sources import Sources
from polchain.verifier.times import Times
from tests.anchored import SIZE, AnchoredLog, asking
from tests.anchors.authority import Root, receipt_of, sha256
from tests.anchors.worlds import Anvil, AnvilWorld

ROOT = Root("root")
AUTHORITY = ROOT.issue("between", ca=True).issue("tsa")
FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=250
)


class Bench:
    """A claim with every kind of evidence of time, and what it says as it is; changes are put back."""

    def __init__(self, log: AnchoredLog, sources: Sources) -> None:
        self.log = log
        self.sources = sources
        self.files = {
            path.relative_to(log.claim).as_posix(): path.read_bytes()
            for folder in ("heads", "anchors")
            for path in sorted((log.claim / folder).iterdir())
        }
        self.times = log.times(sources)

    def says(self, name: str, data: bytes) -> object:
        """What the claim says with another file there; None for a named error. Anything else fails the test."""
        try:
            (self.log.claim / name).write_bytes(data)
            write_listing(self.log.claim)
            return said(self.log.times(self.sources))
        except EvidenceError:
            return None
        finally:
            (self.log.claim / name).write_bytes(self.files[name])


@pytest.fixture(scope="module")
def bench(require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("fuzz")
    node = Anvil(require("anvil"))
    try:
        log = AnchoredLog(folder / "claim", AnvilWorld(folder, node), beacon=True)
        log.anchor(4)
        log.anchor(5, batch=True)
        log.anchor(6, final=False)
        token = AUTHORITY.token(sha256(log.note(SIZE)), 7)
        log.put(FiledReceipt(SIZE, receipt_of(token, 7, [AUTHORITY.der, ROOT.der])), "rfc3161-example")
        chain = log.world.chain
        blocks = [block for number in range(chain.height() + 1) if (block := chain.block_hash(number)) is not None]
    finally:
        node.stop()
    trusted = Tsa("example", certificates=frozenset({AUTHORITY.pin}))
    return Bench(log, asking(blocks=blocks).plus(tsas=[trusted]))


def test_the_claim_as_it_is_has_every_kind_of_evidence(bench: Bench) -> None:
    assert sorted(bench.files) == [
        "anchors/1-ethereum-31337.json",
        "anchors/4-ethereum-31337.json",
        "anchors/5-ethereum-31337-batch.json",
        "anchors/6-ethereum-31337.json",
        "anchors/7-rfc3161-example.json",
        "anchors/beacon.json",
        "heads/1.note",
        "heads/4.note",
        "heads/5.note",
        "heads/6.note",
        "heads/7.note",
        "heads/last.note",
    ]
    assert [one.status for one in bench.times.anchors] == ["final", "final", "final", "pending", "final"]
    assert bench.times.beacon is not None
    assert bench.times.beacon.timestamp is not None


@FUZZ
@given(data=st.data())
def test_any_flipped_bits_are_refused_or_do_not_matter(bench: Bench, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(bench.files)))
    changed = bytearray(bench.files[name])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    times = bench.says(name, bytes(changed))
    assert times in (None, said(bench.times))
    assert times is None or not name.startswith("heads/"), "a head has one form"


@FUZZ
@given(data=st.data())
def test_any_other_value_in_any_field_is_refused_or_does_not_matter(bench: Bench, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name in sorted(bench.files) if name.endswith(".json")]))
    value = decode(bench.files[name], limit=1 << 20, what=name)
    changed = replaced(value, data.draw(st.sampled_from(list(places(value)))), data.draw(ODD))
    assert bench.says(name, encode(changed)) in (None, said(bench.times))


ODD: st.SearchStrategy[JSON] = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2**53 - 1, "", "0x", "0x00", [], {}, True, False, ["0x00"], {"a": 1}, "final", "pending"]
    ),
    st.text(max_size=8),
    st.binary(max_size=80).map(lambda data: f"0x{data.hex()}"),
    st.integers(0, 2**53 - 1),
)


def said(times: Times) -> object:
    """All that anybody is told."""
    return times.to_json(), [str(span) for span in times.spans], times.forks, times.remarks, times.missing


def places(value: JSON, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a value there is something to change."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*here, key)
            yield from places(inner, (*here, key))


def replaced(value: JSON, place: tuple[Any, ...], new: JSON) -> JSON:
    """The value with another one at that place."""
    if not place:
        return new
    key, *rest = place
    if isinstance(value, dict):
        return {**value, key: replaced(value[key], tuple(rest), new)}
    assert isinstance(value, list)
    return [replaced(one, tuple(rest), new) if at == key else one for at, one in enumerate(value)]
