"""Heads of runs go out once, and their receipts come home; on eth-tester, in this process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polchain.anchors.base import target_of
from polchain.anchors.chain import NonceTakenError
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import Evidence
from polchain.anchors.receipts import FiledReceipt
from polchain.anchors.rfc3161 import Rfc3161Anchor, check_token
from polchain.anchors.sender import Sender
from polchain.anchors.tsa import Tsa
from polchain.core.binding import Binding, sign_key_binding
from polchain.core.claim import head_name
from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry, chain_base
from polchain.core.keys import PrivateKey
from polchain.core.note import open_head
from polchain.errors import (
    AnchorError,
    AnchorUnavailableError,
    FormatError,
    MissingFileError,
    RolledBackError,
    RunLockedError,
    UsageError,
)
from polchain.prover.anchored import AnchorBook
from polchain.prover.anchoring import (
    Waiting,
    publish,
    publish_head,
    quote,
    source_of_tsa,
    stamp,
    upgrade,
    wait,
)
from polchain.prover.status import describe
from polchain.storage.keyfile import PassphraseSource, read_key
from polchain.storage.ledger import Ledger
from tests.anchors.worlds import EMBEDDED, EthTesterWorld, Interposed
from tests.runs import make_genesis, make_key, make_run, make_state
from tests.stamping import Stamping, stamping

CHAIN = f"ethereum-{EMBEDDED.chain_id}"


@pytest.fixture
def tester(tmp_path: Path) -> EthTesterWorld:
    return EthTesterWorld(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    return make_key(tmp_path / "key")


@pytest.fixture
def run(tmp_path: Path, key: PrivateKey) -> Path:
    return make_run(tmp_path / "run", key)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / f"run {i}", make_key(tmp_path / f"key {i}")) for i in range(3)]


def newest(run: Path) -> bytes:
    with Ledger(run) as ledger:
        return ledger.head()


def alone(run: Path, size: int | None = None):
    with Ledger(run) as ledger:
        note = ledger.head(size)
        return target_of(open_head(note, ledger.origin, ledger.genesis.key), note)


def grow(run: Path, key: PrivateKey, step: int = 0) -> None:
    """One more entry; to a log it is all one which."""
    with Ledger(run, key) as ledger:
        state = make_state(step).manifest
        ledger.append(CheckpointEntry(ledger.root, step, state.roots(), Digest("sha256", chain_base(ledger.genesis))))


def key_of(run: Path) -> PrivateKey:
    return read_key(run.with_name(run.name.replace("run", "key")), PassphraseSource())


def sent(tester: EthTesterWorld) -> int:
    return tester.transactions()


def test_a_head_is_pending_then_final_and_paid_once(run: Path, tester: EthTesterWorld) -> None:
    before = sent(tester)
    [one] = publish([run], tester.anchor)
    assert (one.run, one.size, one.source, one.batch, one.final) == (run, 6, CHAIN, None, False)
    assert (run / head_name(6)).read_bytes() == newest(run)
    tester.mine()
    [again] = publish([run], tester.another_process())
    assert again.receipt.body["transaction"] == one.receipt.body["transaction"]
    tester.mine(3)
    [done] = upgrade(run, tester.anchor)
    assert (done.final, upgrade(run, tester.anchor)) == (True, [])
    assert tester.anchor.check(done.receipt, alone(run)).status == "final"
    assert publish([run], tester.anchor) == [done]
    tester.mine()
    assert sent(tester) - before == 1


def test_the_genesis_can_be_published_first(run: Path, tester: EthTesterWorld) -> None:
    one = publish_head(run, 1, tester.anchor)
    tester.mine(4)
    [done] = wait([one], tester.anchor, timeout=5)
    assert (done.size, done.final) == (1, True)
    assert tester.anchor.check(done.receipt, alone(run, 1)).status == "final"
    with pytest.raises(MissingFileError, match="no head of 99"):
        publish_head(run, 99, tester.anchor)
    assert not (run / head_name(99)).exists()


def test_a_batch_is_one_transaction_and_each_run_can_prove_its_own(runs: list[Path], tester: EthTesterWorld) -> None:
    before = sent(tester)
    done = publish([*runs, runs[0]], tester.anchor)
    assert [one.run for one in done] == runs
    tester.mine(4)
    done = wait(done, tester.anchor, timeout=5)
    assert sent(tester) - before == 1
    for one in done:
        filed = AnchorBook(one.run).find(one.size, f"{CHAIN}-batch")
        assert filed is not None
        assert filed.batch is not None
        assert filed.batch.count == 3
        stamp = tester.anchor.check(filed.receipt, filed.target(alone(one.run)))
        assert stamp.status == "final"
        with pytest.raises(AnchorError):
            tester.anchor.check(filed.receipt, alone(one.run))
    others = {one.batch.index for one in done if one.batch is not None}
    assert others == {0, 1, 2}, "each has its own place"
    with pytest.raises(Exception, match=r"inclusion|root"):
        filed.target(alone(runs[0]))


@pytest.mark.parametrize("how", ["alone", "batch"])
def test_what_is_anchored_is_not_put_into_another_batch(how: str, runs: list[Path], tester: EthTesterWorld) -> None:
    before = sent(tester)
    first = publish(runs[:1] if how == "alone" else runs[:2], tester.anchor)
    tester.mine()
    done = publish(runs, tester.anchor)
    assert [one.source for one in done[: len(first)]] == [one.source for one in first]
    [last] = done[-1:]
    assert last.batch is not None
    assert last.batch.count == len(runs) - len(first)
    tester.mine(4)
    assert all(one.final for one in publish(runs, tester.anchor))
    assert sent(tester) - before == 2


def test_a_quote_sends_and_writes_nothing(run: Path, runs: list[Path], tester: EthTesterWorld) -> None:
    before = sent(tester)
    found = quote([run], tester.anchor)
    assert found is not None
    assert 0 < found.cost <= found.most < found.balance
    assert quote(runs, tester.anchor) is not None
    assert not list(run.glob("heads/*")) + list(run.glob("anchors/*")) + list(runs[0].glob("heads/*"))
    publish([run], tester.anchor)
    tester.mine()
    publish(runs, tester.anchor)
    assert quote([run], tester.anchor) is None, "it would send nothing more"
    assert quote(runs, tester.anchor) is None
    assert quote([run, *runs], tester.anchor) is None
    tester.mine()
    assert sent(tester) - before == 2


class Dies(Exception):
    """Where a process might have been killed."""


def dying(tester: EthTesterWorld, method: str, when: str) -> EthereumAnchor:
    """The same account, whose process ends before or after a question."""

    class Dying(Interposed):
        def ask(self, asked: str, *parameters: object) -> object:
            if asked == method and when == "before":
                raise Dies
            answer = super().ask(asked, *parameters)
            if asked == method:
                raise Dies
            return answer

    chain = Dying(tester.chain, "dying", {})
    return EthereumAnchor(EMBEDDED, sender=Sender(EMBEDDED, chain, tester.sender.wallet, tester.sender.journal))


@pytest.mark.parametrize("grown", [False, True], ids=["as it was", "grown"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_interrupted_is_completed_first(
    when: str, grown: bool, run: Path, key: PrivateKey, tester: EthTesterWorld
) -> None:
    before = sent(tester)
    with pytest.raises(Dies):
        publish([run], dying(tester, "eth_sendRawTransaction", when))
    assert AnchorBook(run).receipts() == ()
    if grown:
        grow(run, key)
        tester.tester.enable_auto_mine_transactions()  # eth-tester lets one transaction wait, not two
    publish([run], tester.anchor)
    tester.mine(4)
    upgrade(run, tester.anchor)
    kept = AnchorBook(run).receipts()
    assert [(one.filed.head_size, one.final) for one in kept] == ([(6, True), (7, True)] if grown else [(6, True)])
    assert sent(tester) - before == len(kept)


def test_an_upgrade_writes_the_receipt_that_was_not_written(run: Path, tester: EthTesterWorld) -> None:
    with pytest.raises(Dies):
        publish([run], dying(tester, "eth_sendRawTransaction", "after"))
    tester.mine(4)
    [one] = upgrade(run, tester.anchor)
    assert (one.size, one.final) == (6, True)


def test_an_interrupted_batch_is_gone_on_with(
    runs: list[Path], tester: EthTesterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sent(tester)
    put, written = AnchorBook.put, []

    def die_at_the_second(book: AnchorBook, *words: object) -> None:
        if written:
            raise Dies
        written.append(book)
        put(book, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(AnchorBook, "put", die_at_the_second)
    with pytest.raises(Dies):
        publish(runs, tester.anchor)
    monkeypatch.undo()
    assert quote(runs, tester.anchor) is None
    done = publish(runs, tester.anchor)
    tester.mine(4)
    done = wait(done, tester.anchor, timeout=5)
    assert {one.batch.count for one in done if one.batch is not None} == {3}
    assert all(one.final for one in done)
    assert sent(tester) - before == 1


def test_a_vanished_block_is_pending_again_and_sent_again(run: Path, tester: EthTesterWorld) -> None:
    publish([run], tester.anchor)
    tester.mine()
    [one] = upgrade(run, tester.anchor)
    assert "inclusion" in one.receipt.body
    tester.vanish()
    [one] = upgrade(run, EthereumAnchor(EMBEDDED, [tester.chain]))
    assert "inclusion" not in one.receipt.body
    assert not one.final
    tester.mine(4)
    [one] = upgrade(run, EthereumAnchor(EMBEDDED, [tester.chain]))
    assert one.final
    assert tester.published(alone(run)) == 1


def bound(folder: Path, key: PrivateKey, address: bytes) -> Path:
    genesis = make_genesis(key, foreign=True)
    binding = Binding(address, sign_key_binding(key, genesis.run_id, address), bytes(65))
    Ledger.create(folder, make_genesis(key, foreign=True, ethereum=binding), key).close()
    return folder


def test_a_bound_run_goes_out_alone_from_its_account_only(
    tmp_path: Path, key: PrivateKey, run: Path, tester: EthTesterWorld
) -> None:
    stranger = bound(tmp_path / "bound", key, bytes(range(20)))
    for publishing in (publish, quote):
        with pytest.raises(UsageError) as caught:
            publishing([stranger], tester.anchor)
        assert f"0x{bytes(range(20)).hex()}" in str(caught.value)
        assert f"0x{tester.sender.wallet.address.hex()}" in str(caught.value)
    with pytest.raises(UsageError):
        publish_head(stranger, 1, tester.anchor)
    tester.mine()
    assert tester.published(alone(stranger)) == 0
    assert len(publish([stranger, run], tester.anchor)) == 2, "a batch may come from anybody"
    tester.mine()
    own = bound(tmp_path / "own", key, tester.sender.wallet.address)
    assert publish([own], tester.anchor)[0].source == CHAIN


def test_a_locked_run_is_left_alone(runs: list[Path], tester: EthTesterWorld) -> None:
    before = sent(tester)
    with AnchorBook(runs[1]).locked(), pytest.raises(RunLockedError, match="another process is anchoring"):
        publish(runs, tester.anchor)
    tester.mine()
    assert sent(tester) == before
    with Ledger(runs[0], key_of(runs[0])):
        assert publish(runs[:1], tester.anchor), "whoever trains a run keeps nobody from anchoring it"


def test_trouble_is_written_down_until_it_works(run: Path, tester: EthTesterWorld) -> None:
    class Away(Interposed):
        def ask(self, method: str, *parameters: object) -> object:
            raise AnchorUnavailableError("the node is away")

    away = Sender(EMBEDDED, Away(tester.chain, "away", {}), tester.sender.wallet, tester.sender.journal)
    for _ in range(2):
        with pytest.raises(AnchorUnavailableError):
            publish([run], EthereumAnchor(EMBEDDED, sender=away))
    trouble = describe(run).anchors.trouble
    assert trouble is not None
    assert trouble.what == "the node is away"
    (run / "anchors" / "trouble.json").write_bytes(b"nonsense")
    assert "trouble.json" in describe(run).missing[0]
    with pytest.raises(AnchorUnavailableError):
        publish([run], EthereumAnchor(EMBEDDED, sender=away))
    assert describe(run).anchors.trouble is not None, "a damaged file is written anew"
    publish([run], tester.anchor)
    assert describe(run).anchors.trouble is None


def test_a_ledger_that_is_older_than_a_published_head_is_refused(
    run: Path, tmp_path: Path, key: PrivateKey, tester: EthTesterWorld
) -> None:
    older = tmp_path / "older"
    make_run(older, key, steps=(0, 2))
    publish([run], tester.anchor)
    before = sent(tester)
    (run / "ledger.db").write_bytes((older / "ledger.db").read_bytes())
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (run / name).unlink(missing_ok=True)
    for call in (lambda: publish([run], tester.anchor), lambda: upgrade(run, tester.anchor), lambda: stamp(run, [])):
        with pytest.raises(RolledBackError, match="6 entries"):
            call()
    tester.mine()
    assert sent(tester) - before <= 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda body: body | {"head_size": 5}, "5 entries"),
        (lambda body: body | {"kind": "rfc3161"}, "no receipt from"),
        (lambda body: {}, "receipt"),
    ],
)
def test_a_damaged_receipt_is_named(
    damage: Callable[[dict[str, object]], object], said: str, run: Path, tester: EthTesterWorld
) -> None:
    publish([run], tester.anchor)
    path = run / "anchors" / f"6-{CHAIN}.json"
    path.write_text(json.dumps(damage(json.loads(path.read_bytes())), sort_keys=True, separators=(",", ":")))
    with pytest.raises(FormatError, match=rf"{path.name}.*{said}"):
        publish([run], tester.anchor)
    found = describe(run)
    assert path.name in found.missing[0]
    assert found.anchors.heads == 0


def test_one_lost_receipt_does_not_keep_the_others_pending(run: Path, key: PrivateKey, tester: EthTesterWorld) -> None:
    class Taken(Interposed):
        def send(self, raw: bytes) -> None:
            raise NonceTakenError("nonce too low")

    tester.tester.enable_auto_mine_transactions()
    publish([run], tester.anchor)
    grow(run, key)
    publish([run], tester.anchor)
    tester.mine(3)
    # Of the two, head 6 is told to have vanished for good.
    first = AnchorBook(run).find(6, CHAIN)
    assert first is not None
    taken = Taken(
        tester.chain, "taken", {"eth_getTransactionReceipt": forget(first), "eth_getTransactionByHash": forget(first)}
    )
    with pytest.raises(AnchorUnavailableError, match="another has its nonce"):
        upgrade(run, EthereumAnchor(EMBEDDED, [taken]))
    assert [one.final for one in AnchorBook(run).receipts()] == [False, True]


def forget(filed: FiledReceipt) -> Callable[..., object]:
    """A node's answer, but for one transaction that it has never heard of."""
    unknown = f"0x{Evidence.read(filed.receipt).hash.hex()}"
    return lambda answer, *parameters: None if parameters[0] == unknown else answer


def test_waiting_says_how_long_and_ends_in_time(run: Path, tester: EthTesterWorld) -> None:
    [one] = publish([run], tester.anchor)
    states: list[Waiting] = []

    def mine(state: Waiting) -> None:
        states.append(state)
        tester.mine()

    [done] = wait([one], tester.anchor, timeout=20, on_progress=mine)
    assert done.final
    assert states[0].block is None
    inside = [state for state in states if state.block is not None]
    assert [state.to_go for state in inside] == [2, 1]
    assert all(state.seconds is not None and state.seconds >= 0 for state in inside)
    grow(run, key_of(run))
    [one] = publish([run], tester.anchor)
    with pytest.raises(AnchorUnavailableError, match="not final after") as caught:
        wait([one], tester.anchor, timeout=0.3)
    assert "--upgrade --wait" in caught.value.hint
    assert AnchorBook(run).find(7, CHAIN) is not None


def test_waiting_outlives_a_node_that_is_away_for_a_moment(run: Path, tester: EthTesterWorld) -> None:
    [one] = publish([run], tester.anchor)
    tester.mine(4)
    asked = []

    class Away(Interposed):
        def ask(self, method: str, *parameters: object) -> object:
            asked.append(method)
            if len(asked) < 4:
                raise AnchorUnavailableError("the node is away")
            return super().ask(method, *parameters)

    states: list[Waiting] = []
    anchor = EthereumAnchor(EMBEDDED, [Away(tester.chain, "away", {})])
    [done] = wait([one], anchor, timeout=20, on_progress=states.append)
    assert done.final
    assert states[0].problem == "the node is away"


@pytest.fixture(scope="module")
def authority() -> Iterator[Stamping]:
    with stamping() as found:
        yield found


def test_authorities_are_asked_at_once_and_a_dead_one_stops_nobody(run: Path, authority: Stamping) -> None:
    dead = Rfc3161Anchor(Tsa("dead.example:9", "http://127.0.0.1:9/tsa"))
    alive = Rfc3161Anchor(Tsa("Alive (TSA) 1", authority.url))
    done, failed = stamp(run, [dead, alive])
    assert [(one.size, one.source, one.final) for one in done] == [(6, "rfc3161-alive-tsa-1", True)]
    assert len(failed) == 1
    assert "127.0.0.1:9" in str(failed[0])
    assert describe(run).anchors.trouble is not None
    filed = AnchorBook(run).find(6, "rfc3161-alive-tsa-1")
    assert filed is not None
    tsa = Tsa("pinned", certificates=frozenset({authority.pin}))
    assert check_token(filed.receipt, alone(run), [tsa]).status == "final"
    again, failed = stamp(run, [alive])
    assert (again, failed) == (done, []), "what is there is not asked for again"
    assert describe(run).anchors.trouble is None
    assert (run / head_name(6)).read_bytes() == newest(run)


def test_two_authorities_of_one_name_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="two time-stamping authorities"):
        stamp(run, [Rfc3161Anchor(Tsa("a.b", "http://127.0.0.1:9/")), Rfc3161Anchor(Tsa("A-B", "http://127.0.0.1:9/"))])
    with pytest.raises(UsageError, match="no name"):
        source_of_tsa("...")


def test_a_status_counts_heads_and_says_the_newest_step(run: Path, key: PrivateKey, tester: EthTesterWorld) -> None:
    assert describe(run).anchors.heads == 0
    assert describe(run).anchors.step is None
    publish_head(run, 1, tester.anchor)
    tester.mine()
    assert describe(run).anchors.step == 0
    publish_head(run, 4, tester.anchor)
    tester.mine(4)
    upgrade(run, tester.anchor)
    publish([run, make_run(tester.folder / "else", key)], tester.anchor)
    found = describe(run).anchors
    assert (found.heads, found.step) == (3, 4)
    assert [(one.source, one.final, one.pending) for one in found.sources] == [("embedded", 2, 1)]


def test_no_run_and_no_account_are_named(tmp_path: Path, run: Path, tester: EthTesterWorld) -> None:
    with pytest.raises(MissingFileError, match="no run at"):
        publish([tmp_path / "nothing"], tester.anchor)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(UsageError, match="no run was named"):
        publish([], tester.anchor)
    with pytest.raises(UsageError, match="takes an account"):
        publish([run], EthereumAnchor(EMBEDDED, [tester.chain]))
