"""A run is followed whatever happens to its sources of time."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.rfc3161 import Rfc3161Anchor
from polchain.anchors.transport import post
from polchain.anchors.tsa import Tsa
from polchain.errors import AnchorUnavailableError, UsageError
from polchain.prover import following
from polchain.prover.anchored import AnchorBook
from polchain.prover.anchorlog import Published
from polchain.prover.following import Events, Follower
from polchain.prover.sources import Sources
from tests.anchors.worlds import EMBEDDED, EthTesterWorld
from tests.runs import make_key, make_run
from tests.stamping import Stamping, stamping

CHAIN = f"ethereum-{EMBEDDED.chain_id}"


@pytest.fixture
def tester(tmp_path: Path) -> EthTesterWorld:
    return EthTesterWorld(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", make_key(tmp_path / "key"))


@pytest.fixture(scope="module")
def authority() -> Iterator[Stamping]:
    with stamping() as found:
        yield found


class Watching:
    """What a follower says, and what happens each time that it sleeps; it is stopped after the last."""

    def __init__(self, *happenings: Callable[[], object]) -> None:
        self.happenings = list(happenings)
        self.published: list[Published] = []
        self.problems: list[str] = []
        self.gone = False

    def events(self) -> Events:
        return Events(self.published.append, self.problems.append, self.sleep, lambda: self.gone)

    def sleep(self, seconds: float) -> bool:
        if not self.happenings:
            return True
        self.happenings.pop(0)()
        return False


def test_a_run_that_somebody_else_anchors_is_come_back_to(run: Path, tester: EthTesterWorld) -> None:
    held = AnchorBook(run).locked()
    held.__enter__()
    watching = Watching(lambda: held.__exit__(None, None, None), lambda: tester.mine(4))
    follower = Follower(run, Sources((), EMBEDDED, lambda: tester.anchor), 1, watching.events())
    [one] = follower.follow()
    assert (one.source, watching.problems) == (CHAIN, [])
    assert AnchorBook(run).trouble() is None


def test_a_dead_authority_does_not_keep_the_network_waiting(
    run: Path, tester: EthTesterWorld, authority: Stamping
) -> None:
    alive = [False]

    def transport(url: str, body: bytes, content_type: str) -> bytes:
        if not alive[0]:
            raise AnchorUnavailableError("the authority is away")
        return post(url, body, content_type)

    def look() -> None:
        assert [kept.source for kept in AnchorBook(run).receipts()] == [CHAIN]
        trouble = AnchorBook(run).trouble()
        assert trouble is not None
        assert trouble.what == "the authority is away"
        tester.mine(4)
        time.sleep(1.1)

    def come_back() -> None:
        alive[0] = True
        time.sleep(2.1)

    tsa = Rfc3161Anchor(Tsa("tsa", authority.url), transport)
    watching = Watching(look, come_back)
    sources = Sources([tsa], EMBEDDED, lambda: tester.anchor)
    follower = Follower(run, sources, 1, watching.events(), wait=True, timeout=60)
    found = follower.follow()
    assert {(one.source, one.final) for one in found} == {(CHAIN, True), ("rfc3161-tsa", True)}
    assert watching.problems == ["the authority is away"], "it is said once"
    assert AnchorBook(run).trouble() is None


def test_the_last_attempt_of_an_orphan_is_one(run: Path, tester: EthTesterWorld) -> None:
    calls = []

    def away() -> EthereumAnchor:
        calls.append(1)
        raise AnchorUnavailableError("the node is away")

    watching = Watching()
    watching.gone = True
    assert Follower(run, Sources((), EMBEDDED, away), 1000, watching.events()).follow() == []
    assert len(calls) == 1
    trouble = AnchorBook(run).trouble()
    assert trouble is not None
    assert trouble.what == "the node is away"


def test_waiting_for_the_last_head_has_an_end(run: Path, tester: EthTesterWorld) -> None:
    watching = Watching(*[lambda: None] * 99)
    follower = Follower(run, Sources((), EMBEDDED, lambda: tester.anchor), 1, watching.events(), wait=True, timeout=0)
    with pytest.raises(AnchorUnavailableError, match="not final after 0 s"):
        follower.follow()
    assert [one.size for one in follower.found] == [6]


def test_what_cannot_be_mended_by_waiting_ends_it(run: Path) -> None:
    def wrong() -> EthereumAnchor:
        raise UsageError("the wrong account")

    with pytest.raises(UsageError):
        Follower(run, Sources((), EMBEDDED, wrong), 1, Watching().events()).follow()
    trouble = AnchorBook(run).trouble()
    assert trouble is not None
    assert trouble.what == "the wrong account"


def test_retries_come_after_one_second_to_sixty() -> None:
    retry, delays = following._Retry(), []
    for _ in range(8):
        delays.append(retry.delay)
        retry.later()
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
