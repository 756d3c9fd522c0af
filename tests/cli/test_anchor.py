"""`polchain anchor`, against a real node."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from polchain.anchors.base import target_of
from polchain.anchors.evidence import Evidence
from polchain.cli.app import main
from polchain.core.binding import Binding, sign_key_binding
from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry, Final, chain_base
from polchain.core.keys import PrivateKey
from polchain.core.note import open_head
from polchain.prover.anchored import AnchorBook
from polchain.prover.settings import RunSettings
from polchain.storage.ledger import Ledger
from tests.anchors.worlds import ANVIL_ACCOUNT, ANVIL_KEY, Anvil, AnvilWorld, target
from tests.cli.conftest import Done, command
from tests.cli.dying import MOMENTS, run_until
from tests.runs import make_genesis, make_key, make_run, make_state
from tests.stamping import Stamping, stamping

Call = Callable[..., Done]
ACCOUNT = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
SOURCE = "ethereum-31337"
DEAD = "http://127.0.0.1:9/tsa"


@pytest.fixture
def world(require: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AnvilWorld]:
    """A local chain with PolAnchor on it, that the environment names; blocks come when the test says."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    node = Anvil(require("anvil"), "--state", str(tmp_path / "chain"))
    monkeypatch.setenv("POLCHAIN_NETWORK", "local")
    monkeypatch.setenv("POLCHAIN_RPC", node.address)
    monkeypatch.setenv("POLCHAIN_ACCOUNT", ACCOUNT)
    yield AnvilWorld(tmp_path, node)
    node.stop()


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / f"run {i}", make_key(tmp_path / f"key {i}")) for i in range(3)]


@pytest.fixture
def growing(tmp_path: Path) -> "Growing":
    path, key = tmp_path / "growing", make_key(tmp_path / "growing-key")
    Ledger.create(path, make_genesis(key), key).close()
    return Growing(path, key)


@dataclass(frozen=True)
class Growing:
    """A run whose steps the test makes."""

    path: Path
    key: PrivateKey

    def commit(self, *steps: int) -> None:
        for step in steps:
            roots = make_state(step).manifest.roots()
            with Ledger(self.path, self.key) as ledger:
                chain = Digest("sha256", chain_base(ledger.genesis))
                ledger.append(CheckpointEntry(ledger.root, step, roots, chain))

    def finish(self, step: int) -> None:
        with Ledger(self.path, self.key) as ledger:
            roots = make_state(step).manifest.roots()
            ledger.append(Final(ledger.root, step, roots, Digest("sha256", chain_base(ledger.genesis))))


def alone(run: Path, size: int | None = None) -> Any:
    with Ledger(run) as ledger:
        note = ledger.head(size)
        return target_of(open_head(note, ledger.origin, ledger.genesis.key), note)


def kept(run: Path) -> list[tuple[int, str, bool]]:
    return [(one.filed.head_size, one.source, one.final) for one in AnchorBook(run).receipts()]


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.1)


def begin(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(command(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_head_is_published_and_becomes_final(call: Call, world: AnvilWorld, run: Path) -> None:
    before = world.transactions()
    done = call("anchor", run)
    assert done.code == 0, done.err
    for text in (str(run), "6 entries, sha256:", "local, alone", "pending: in no block yet", "0x", "at most"):
        assert text in done.out
    assert f"`polchain anchor {run} --upgrade`" in done.err
    world.mine()
    assert "pending: in a block that is not final yet" in call("anchor", run, "--upgrade").out
    world.mine(2)
    done = call("anchor", run, "--json")
    assert (done.code, done.err) == (0, "")
    answer = json.loads(done.out)
    [one] = answer["anchors"]
    assert answer["failed"] == []
    assert (one["size"], one["source"], one["status"], one["network"]) == (6, SOURCE, "final", "local")
    assert (one["root"], one["account"]) == (f"sha256:{alone(run).root.hex()}", ACCOUNT.lower())
    assert one["block"] > 0
    assert int(one["at_most"]) > 0
    world.mine()
    assert (world.transactions() - before, world.published(alone(run))) == (1, 1)
    done = call("anchor", run, "--upgrade")
    assert (done.code, done.out) == (0, "nothing is pending\n")


def test_several_runs_share_a_transaction(call: Call, world: AnvilWorld, runs: list[Path]) -> None:
    before = world.transactions()
    assert call("anchor", runs[0]).code == 0
    done = call("anchor", *runs)
    assert done.code == 0, done.err
    assert done.out.count("local, in a batch of 2 heads") == 2
    world.mine(3)
    answer = json.loads(call("anchor", *runs, "--json").out)
    assert [one["batch"] for one in answer["anchors"][:1]] == [None]
    assert sorted(one["batch"]["index"] for one in answer["anchors"][1:]) == [0, 1]
    assert {one["status"] for one in answer["anchors"]} == {"final"}
    for run in runs[1:]:
        filed = AnchorBook(run).find(6, f"{SOURCE}-batch")
        assert filed is not None
        assert world.anchor.check(filed.receipt, filed.target(alone(run))).status == "final"
    world.mine()
    assert world.transactions() - before == 2


def test_the_cost_is_said_and_nothing_sent(call: Call, world: AnvilWorld, run: Path, runs: list[Path]) -> None:
    before = world.transactions()
    for words in ((run,), runs):
        done = call("anchor", *words, "--dry-run")
        assert (done.code, done.err) == (0, "")
        assert "ether; at most" in done.out
    answer = json.loads(call("anchor", run, "--dry-run", "--json").out)
    assert answer["sends"] is True
    assert 0 < int(answer["cost"]) <= int(answer["at_most"])
    assert not (run / "heads").exists()
    done = call("anchor", run, "--dry-run", "--max-fee", "0.000001")
    assert (done.code, "over the cap" in done.err) == (4, True)
    world.mine()
    assert world.transactions() == before
    call("anchor", run)
    assert "published already" in call("anchor", run, "--dry-run").out
    assert json.loads(call("anchor", run, "--dry-run", "--json").out)["sends"] is False


def test_waiting_ends_when_it_is_final_or_time_is_up(call: Call, world: AnvilWorld, run: Path) -> None:
    done = call("anchor", run, "--wait", "--timeout", "0.5", "--json")
    answer = json.loads(done.out)
    assert done.code == 4
    assert [one["status"] for one in answer["anchors"]] == ["pending"]
    assert "not final after 0.5 s" in answer["failed"][0]["message"]
    done = call("anchor", run, "--wait", "--timeout", "0")
    assert (done.code, "pending" in done.out) == (4, True)
    assert "not final after 0 s" in done.err
    assert "--upgrade --wait" in done.err
    world.chain.ask("anvil_setIntervalMining", 1)
    done = call("anchor", run, "--upgrade", "--wait")
    assert (done.code, "\nstatus       final\n" in done.out) == (0, True), done.err
    assert world.published(alone(run)) == 1


def test_a_terminal_shows_how_far_it_is(world: AnvilWorld, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    world.chain.ask("anvil_setIntervalMining", 1)
    assert main(["anchor", str(run), "--wait"]) == 0
    assert re.search(r"local block \d+, 1 to go  0/1 blocks  0 %  about 0:00:0\d left", terminal.getvalue())


def test_a_vanished_block_is_pending_again_and_sent_again(call: Call, world: AnvilWorld, run: Path) -> None:
    before = world.transactions()
    call("anchor", run)
    world.mine()
    [one] = json.loads(call("anchor", run, "--upgrade", "--json").out)["anchors"]
    assert (one["status"], one["block"] is None) == ("pending", False)
    world.vanish()
    assert world.published(alone(run)) == 0
    [gone] = json.loads(call("anchor", run, "--upgrade", "--json").out)["anchors"]
    assert (gone["status"], gone["block"], gone["transaction"]) == ("pending", None, one["transaction"])
    world.mine(3)
    [back] = json.loads(call("anchor", run, "--upgrade", "--json").out)["anchors"]
    assert (back["status"], back["transaction"]) == ("final", one["transaction"])
    assert (world.transactions() - before, world.published(alone(run))) == (1, 1)


def killed(moment: str, *words: object) -> None:
    """The command line in a process of its own, which is killed at that moment; forked because imports are slow."""
    child = os.fork()
    if not child:
        try:
            os._exit(run_until(moment, *map(str, words)))
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "the moment did not come"


@pytest.mark.parametrize("mined", [False, True], ids=["waiting", "mined"])
@pytest.mark.parametrize("moment", MOMENTS[:4])
def test_a_killed_command_has_paid_once(call: Call, world: AnvilWorld, run: Path, moment: str, mined: bool) -> None:
    before = world.transactions()
    killed(moment, "anchor", run)
    assert kept(run) == []
    if mined:
        world.mine()
    assert call("anchor", run).code == 0
    world.mine(3)
    assert call("anchor", run).code == 0
    assert kept(run) == [(6, SOURCE, True)]
    assert (world.transactions() - before, world.published(alone(run))) == (1, 1)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_batch_has_paid_once(call: Call, world: AnvilWorld, runs: list[Path], moment: str) -> None:
    before = world.transactions()
    killed(moment, "anchor", *runs)
    assert call("anchor", *runs).code == 0
    world.mine(3)
    assert call("anchor", *runs).code == 0
    assert [kept(run) for run in runs] == [[(6, f"{SOURCE}-batch", True)]] * 3
    assert world.transactions() - before == 1


def test_one_lost_transaction_does_not_keep_other_runs_pending(
    call: Call, world: AnvilWorld, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    call("anchor", runs[0])
    world.chain.ask("anvil_dropAllTransactions")
    world.anchor.submit(target("else"))  # another program, with the same nonce
    world.mine()
    call("anchor", runs[1])
    world.mine(3)
    monkeypatch.delenv("POLCHAIN_ACCOUNT")
    done = call("anchor", *runs[:2], "--upgrade", "--json")
    answer = json.loads(done.out)
    assert done.code == 4
    assert [(one["run"], one["status"]) for one in answer["anchors"]] == [(str(runs[1]), "final")]
    assert [one["run"] for one in answer["failed"]] == [str(runs[0])]
    assert "another has its nonce" in answer["failed"][0]["message"]
    monkeypatch.setenv("POLCHAIN_ACCOUNT", ACCOUNT)
    call("anchor", runs[0])
    world.mine(3)
    assert call("anchor", runs[0], "--upgrade").code == 0
    assert kept(runs[0]) == [(6, SOURCE, True)], "with the account it is sent anew"
    assert world.published(alone(runs[0])) == 1


@pytest.mark.parametrize("how", [(), ("--upgrade",)], ids=["anchor", "upgrade"])
@pytest.mark.parametrize("moment", MOMENTS[1:4])
def test_a_receipt_is_not_lost_though_the_run_has_grown(
    call: Call, world: AnvilWorld, growing: Growing, moment: str, how: tuple[str, ...]
) -> None:
    growing.commit(0, 1)
    killed(moment, "anchor", growing.path)
    growing.commit(2)
    assert call("anchor", growing.path, *how).code == 0
    world.mine(3)
    assert call("anchor", growing.path, "--upgrade").code == 0
    newest = [] if how else [(4, SOURCE, True)]
    assert kept(growing.path) == [(3, SOURCE, True), *newest]
    assert world.published(alone(growing.path, 3)) == 1


def test_two_commands_at_once_pay_once(world: AnvilWorld, run: Path) -> None:
    before = world.transactions()
    both = [begin("anchor", run) for _ in range(2)]
    said = [one.communicate(timeout=60)[1] for one in both]
    codes = sorted(one.returncode for one in both)
    assert codes in ([0, 0], [0, 4]), said
    if codes == [0, 4]:
        assert any("another process is anchoring" in text for text in said)
    world.mine(3)
    assert (world.transactions() - before, world.published(alone(run))) == (1, 1)


def test_a_run_that_is_being_anchored_is_locked(call: Call, world: AnvilWorld, run: Path) -> None:
    with AnchorBook(run).locked():
        done = call("anchor", run)
    assert (done.code, "another process is anchoring" in done.err) == (4, True)
    assert kept(run) == []


def test_another_account_than_the_bound_one_is_refused(
    call: Call, world: AnvilWorld, run: Path, tmp_path: Path
) -> None:
    key, address = make_key(tmp_path / "bound-key"), bytes(range(20))
    genesis = make_genesis(key, foreign=True)
    binding = Binding(address, sign_key_binding(key, genesis.run_id, address), bytes(65))
    bound = tmp_path / "bound"
    Ledger.create(bound, make_genesis(key, foreign=True, ethereum=binding), key).close()
    done = call("anchor", bound)
    assert (done.code, done.out) == (2, "")
    assert f"0x{address.hex()}" in done.err
    assert ACCOUNT.lower() in done.err
    assert call("anchor", bound, "--dry-run").code == 2
    Growing(bound, key).commit(0, 1)
    assert call("anchor", bound, "--every", "1").code == 2
    assert f"0x{address.hex()}" in call("status", bound).out, "what ended it is written down"
    world.mine()
    assert world.published(alone(bound)) == 0
    assert call("anchor", bound, run).code == 0, "a batch may come from anybody"


def test_another_chain_is_refused(call: Call, world: AnvilWorld, run: Path) -> None:
    done = call("anchor", run, "--network", "sepolia")
    assert (done.code, "wrong chain" in done.err) == (4, True)
    done = call("status", run, "--json")
    assert "wrong chain" in json.loads(done.out)["anchors"]["trouble"]["what"]
    assert kept(run) == []


def test_a_keystore_pays(
    call: Call, world: AnvilWorld, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POLCHAIN_ACCOUNT")
    keystore, secret = tmp_path / "keystore", tmp_path / "secret"
    keystore.write_text(json.dumps(Account.encrypt(ANVIL_KEY, "secret", kdf="pbkdf2", iterations=1000)))
    secret.write_text("secret\n")
    secret.chmod(0o600)
    words = ("anchor", run, "--keystore", keystore, "--keystore-passphrase-file", secret)
    assert call(*words).code == 0
    world.mine(3)
    assert call("anchor", run, "--upgrade").code == 0, "asking takes no account"
    assert kept(run) == [(6, SOURCE, True)]
    assert Evidence.read(AnchorBook(run).receipts()[0].filed.receipt).prover == ANVIL_ACCOUNT


def test_the_run_says_where_it_is_anchored(
    call: Call, world: AnvilWorld, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NETWORK", "RPC", "ACCOUNT"):
        monkeypatch.delenv(f"POLCHAIN_{name}")
    (run / "polchain.toml").unlink()
    settings = RunSettings.read(run).with_network({"network": "local", "rpc": world.node.address, "account": ACCOUNT})
    settings.write(run)
    assert (run / "polchain.toml").stat().st_mode & 0o777 == 0o600, "an address may hold a secret"
    monkeypatch.chdir(run)
    assert call("anchor").code == 0
    assert kept(run) == [(6, SOURCE, False)]
    done = call("anchor", "--network", "sepolia")
    assert (done.code, "no node of sepolia" in done.err) == (2, True), "a run's node is one of its own network"
    monkeypatch.setenv("POLCHAIN_NETWORK", "hoodi")
    assert "no node of hoodi" in call("anchor").err


def test_a_node_that_is_away_is_named_and_kept_as_trouble(call: Call, world: AnvilWorld, run: Path) -> None:
    world.stop()
    done = call("anchor", run, "--json")
    error = json.loads(done.out)["error"]
    assert (done.code, error["name"]) == (4, "AnchorUnavailableError")
    done = call("status", run)
    assert "anchors      none" in done.out
    assert "trouble      anchoring does not work since" in done.out
    assert "cannot be reached" in done.out


@pytest.fixture(scope="module")
def authority() -> Iterator[Stamping]:
    with stamping() as found:
        yield found


def test_authorities_need_no_network(call: Call, run: Path, authority: Stamping) -> None:
    done = call("anchor", run, "--tsa", DEAD, "--tsa", authority.url)
    assert done.code == 0, "one of them worked"
    assert f"{authority.pin}; the verifier pins it" in done.out
    assert "127.0.0.1:9" in done.err
    done = call("anchor", run, "--tsa", DEAD, "--tsa", authority.url, "--json")
    answer = json.loads(done.out)
    [one], [failed] = answer["anchors"], answer["failed"]
    assert one["certificate"] == str(authority.pin)
    assert (one["status"], abs(one["time"] - time.time()) < 3600) == ("final", True)
    assert failed["source"] == "rfc3161-127-0-0-1-9"
    done = call("anchor", run, "--tsa", DEAD)
    assert (done.code, done.out) == (4, "")
    text = call("status", run).out
    assert "anchors      1 head, up to step 4: 127-0-0-1-" in text
    assert "trouble      anchoring does not work since" in text


def test_a_network_and_authorities_go_together(
    call: Call, world: AnvilWorld, runs: list[Path], authority: Stamping
) -> None:
    done = call("anchor", *runs, "--network", "local", "--tsa", authority.url, "--json")
    answer = json.loads(done.out)
    assert done.code == 0
    assert sorted(one["source"][:8] for one in answer["anchors"]) == ["ethereum"] * 3 + ["rfc3161-"] * 3
    world.stop()
    alone_run = runs[0].parent / "another"
    make_run(alone_run, make_key(runs[0].parent / "another-key"))
    done = call("anchor", alone_run, "--network", "local", "--tsa", authority.url)
    assert (done.code, str(authority.pin) in done.out) == (4, True), "the network failed, the authority did not"
    assert "cannot be reached" in done.err
    assert "trouble" in call("status", alone_run).out
    done = call("anchor", alone_run, "--tsa", authority.url)
    assert (done.code, done.err) == (0, ""), "without a flag about the network nobody pays"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "--network sepolia, for one; --tsa URL"),
        (("--tsa", "ftp://x"), 2, "not an http or https URL"),
        (("--tsa", "http://h/a", "--tsa", "http://h/b"), 2, "one authority"),
        (("--network", "local", "--rpc", "http://127.0.0.1:9"), 2, "no account"),
        (("--network", "sepolia"), 2, "no node"),
        (("--upgrade",), 2, "no network"),
        (("--dry-run",), 2, "no network"),
        (("--dry-run", "--wait"), 2, "--dry-run sends nothing"),
        (("--upgrade", "--tsa", "http://h/"), 2, "--upgrade publishes nothing"),
        (("--timeout", "3"), 2, "--timeout belongs to --wait"),
        (("--wait", "--timeout", "-3"), 2, "--timeout"),
        (("--until-parent-ends", "1"), 2, "belongs to --every"),
        (("another", "--every", "3"), 2, "one run"),
        (("--every", "0"), 2, "--every"),
    ],
)
def test_what_cannot_be_done_is_said(call: Call, run: Path, words: tuple[str, ...], code: int, said: str) -> None:
    done = call("anchor", run, *words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert not (run / "heads").exists()


def test_no_run_is_said(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("anchor", "--tsa", DEAD)
    assert (done.code, "which run?" in done.err) == (2, True)
    done = call("anchor", tmp_path / "nothing", "--tsa", DEAD)
    assert (done.code, "no run at" in done.err) == (4, True)
    assert not (tmp_path / "nothing").exists()


def test_a_growing_run_is_anchored_every_so_many_steps(world: AnvilWorld, growing: Growing) -> None:
    world.chain.ask("evm_setAutomine", True)
    growing.commit(0, 1)
    process = begin("anchor", growing.path, "--every", "2", "--wait", "--json")
    try:
        until(lambda: (growing.path / "anchors" / "lock").exists(), "it looks at the run")
        time.sleep(2)
        assert kept(growing.path) == [], "only one step was committed"
        growing.commit(2)
        until(lambda: [size for size, *_ in kept(growing.path)] == [4], "the head after step 2")
        growing.commit(3)
        world.mine(3)
        until(lambda: kept(growing.path) == [(4, SOURCE, True)], "the first head is final")
        growing.commit(4)
        until(lambda: [size for size, *_ in kept(growing.path)] == [4, 6], "the head after step 4")
        growing.commit(5)
        growing.finish(5)
        until(lambda: [size for size, *_ in kept(growing.path)] == [4, 6, 8], "the last head")
        assert process.poll() is None, "it waits until that is final"
        world.mine(3)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert [(one["size"], one["status"]) for one in json.loads(out)["anchors"]] == [(n, "final") for n in (4, 6, 8)]
    assert "anchored 8 entries" in err


def test_a_dead_node_that_comes_back_is_used_again(call: Call, world: AnvilWorld, growing: Growing) -> None:
    world.mine()
    world.node.stop(signal.SIGTERM)  # it writes its state
    growing.commit(0, 1, 2)
    process = begin("anchor", growing.path, "--every", "2")
    try:
        until(lambda: "cannot be reached" in call("status", growing.path).out, "the trouble is shown")
        since = AnchorBook(growing.path).trouble()
        time.sleep(2.5)
        assert since == AnchorBook(growing.path).trouble(), "it is the first failure's time"
        world.node.start()
        until(lambda: [size for size, *_ in kept(growing.path)] == [4], "the head is published after all")
        until(lambda: AnchorBook(growing.path).trouble() is None, "the trouble is over")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "local, alone" in out
    assert err.count("cannot be reached") == 1, "it is said once"
    assert "trying again" in err


def test_it_ends_with_the_process_that_began_it(world: AnvilWorld, growing: Growing, tmp_path: Path) -> None:
    growing.commit(0, 1)
    words = [*command(["anchor", growing.path, "--every", "100", "--until-parent-ends"])]
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os, subprocess, time; words = [*{words!r}, str(os.getpid())];"
            f"p = subprocess.Popen(words, stderr=open({str(log)!r}, 'w'));"
            "print(p.pid, flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    until(lambda: (growing.path / "anchors" / "lock").exists(), "it looks at the run")
    time.sleep(2)
    assert kept(growing.path) == [], "100 steps were not committed"
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not alive(child), "it ends too")
    assert kept(growing.path) == [(3, SOURCE, False)], "with one last attempt"


def alive(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
