"""Pre-registration from the command line, against a real node: bind, publish, wait for the beacon, train, verify."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_account import Account

from polchain.anchors.beacon import DISTANCE
from polchain.anchors.binding import check_address_binding
from polchain.anchors.chain import Chain
from polchain.core.binding import check_key_binding
from polchain.core.entries import Start
from polchain.storage.ledger import Ledger
from tests.anchors.worlds import ANVIL_ACCOUNT, ANVIL_KEY, Anvil
from tests.cli.conftest import Done, command

Call = Callable[..., Done]
ACCOUNT = f"0x{ANVIL_ACCOUNT.hex()}"


def payer(keystore: Path, secret: Path) -> tuple[object, ...]:
    return "--keystore", keystore, "--keystore-passphrase-file", secret


@dataclass(frozen=True)
class Place:
    """A node with the contract on it, a key, a keystore."""

    node: Anvil
    chain: Chain
    key: Path
    keystore: Path
    secret: Path

    @property
    def network(self) -> tuple[object, ...]:
        return "--network", "local", "--rpc", self.node.address

    @property
    def payer(self) -> tuple[object, ...]:
        return payer(self.keystore, self.secret)

    def mine(self, blocks: int) -> None:
        self.chain.ask("anvil_mine", hex(blocks))


@pytest.fixture
def place(
    require: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key_file: Path, start: Call
) -> Iterator[Place]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    node = Anvil(require("anvil"), "--state", str(tmp_path / "chain"))
    keystore, secret = tmp_path / "keystore", tmp_path / "secret"
    keystore.write_text(json.dumps(Account.encrypt(ANVIL_KEY, "secret", kdf="pbkdf2", iterations=1000)))
    secret.write_text("secret\n")
    secret.chmod(0o600)
    chain = Chain.connect(node.address)
    made = Place(node, chain, key_file, keystore, secret)
    deployed = start("contract", "deploy", *made.network, "--account", ACCOUNT)
    assert deployed.code == 0, deployed.err
    yield made
    node.stop()


def begin(place: Place, start: Call, run: Path, script: Path, *more: object) -> Done:
    words = ("init", run, "--recipe", script, "--data", script.parent, *place.network, *place.payer)
    return start(*words, *more, "--", "8", "-")


def test_a_run_is_preregistered_and_takes_its_seed_from_the_beacon(
    place: Place, start: Call, script: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    began = begin(place, start, run, script, "--anchor", "--json")
    assert began.code == 0, began.err
    said = json.loads(began.out)
    assert said["address"] == ACCOUNT
    assert (said["anchor"]["size"], said["anchor"]["status"]) == (1, "pending")
    with Ledger(run) as ledger:
        genesis = ledger.genesis
    assert genesis.ethereum is not None
    check_key_binding(genesis.ethereum, genesis.key, genesis.run_id)
    check_address_binding(genesis.ethereum, genesis.key, genesis.run_id)

    early = start("train", run)
    assert early.code == 4
    assert "--wait-beacon" in early.err

    block = place.chain.height() + DISTANCE
    waiting = subprocess.Popen(
        command(["train", run, "--wait-beacon", "--json"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    place.mine(DISTANCE + 3)
    out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, err
    assert json.loads(out)["finished"]
    with Ledger(run) as ledger:
        begun = ledger.entry(1)
    assert isinstance(begun, Start)
    assert begun.beacon is not None
    assert (begun.source, begun.beacon.block) == ("beacon", block)
    assert begun.value == place.chain.block_hash(block)

    again = start("train", run)
    assert again.code == 0, again.err


def test_own_seed_does_not_wait(place: Place, start: Call, script: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert begin(place, start, run, script, "--anchor").code == 0
    done = start("train", run, "--own-seed")
    assert done.code == 0, done.err
    with Ledger(run) as ledger:
        begun = ledger.entry(1)
    assert isinstance(begun, Start)
    assert begun.source == "prover"
    assert start("train", run, "--own-seed", "--wait-beacon").code == 2


def test_a_node_that_is_away_while_it_is_waited_for_ends_nothing(
    place: Place, start: Call, script: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert begin(place, start, run, script, "--anchor").code == 0
    words = command(["train", run, "--wait-beacon"])
    # These variables and no others: where readline is loaded, it has set COLUMNS behind Python's back.
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as waiting:
        assert waiting.stderr is not None
        assert "waiting for it" in waiting.stderr.readline()
        place.mine(DISTANCE + 3)
        place.node.stop(signal.SIGTERM)
        lines = [waiting.stderr.readline()]
        place.node.start()
        lines += waiting.stderr.readlines()
    assert "asking again" in lines[0]
    assert waiting.returncode == 0, lines


def test_whatever_is_wrong_with_the_network_is_said_before_anything_is_written(
    place: Place, start: Call, script: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["init", run, "--recipe", script, "--data", script.parent, "--anchor"]
    poor = tmp_path / "poor"
    poor.write_text(json.dumps(Account.encrypt(b"\7" * 32, "secret", kdf="pbkdf2", iterations=1000)))
    for more, code, why in (
        ((), 2, "no account was named"),
        (
            (*place.network, "--keystore", tmp_path / "nowhere", "--keystore-passphrase-file", place.secret),
            4,
            "keystore",
        ),
        ((*place.network, "--keystore", poor, "--keystore-passphrase-file", place.secret), 4, "insufficient funds"),
        (("--network", "local", "--rpc", "http://127.0.0.1:9", *place.payer), 4, "cannot be reached"),
        (("--network", "sepolia", "--rpc", place.node.address, *place.payer), 4, "wrong chain"),
        ((*place.payer,), 2, "no network was named"),
    ):
        done = start(*words, *more, "--", "8", "-")
        assert (done.code, why in done.err) == (code, True), done.err
        assert not run.exists()


def test_a_foreign_run_binds_and_anchors_too(place: Place, start: Call, tmp_path: Path) -> None:
    done = start("init", tmp_path / "run", "--foreign", "--anchor", *place.network, *place.payer, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["anchor"]["size"] == 1
    with Ledger(tmp_path / "run") as ledger:
        assert ledger.genesis.ethereum is not None


def test_a_training_is_anchored_as_it_goes(place: Place, start: Call, script: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = start(
        *("train", run, "--recipe", script, "--data", script.parent, *place.network, *place.payer),
        *("--anchor-every", "4", "--json", "--", "8", "-"),
    )
    assert done.code == 0, done.err
    assert "last head" not in done.err
    assert json.loads(done.out)["finished"]
    said = json.loads(start("status", run, "--json").out)
    with Ledger(run) as ledger:
        size = ledger.size
        assert ledger.genesis.ethereum is not None, "an account that a new run is started with is bound"
    assert (run / f"anchors/{size}-ethereum-31337.json").exists(), said


def test_a_dead_node_neither_blocks_nor_fails_a_training(
    place: Place, start: Call, script: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert begin(place, start, run, script).code == 0
    place.node.stop()
    done = start("train", run, *place.payer, "--anchor-every", "4", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["finished"]
    assert "the last head is not anchored" in done.err
    status = start("status", run)
    assert "cannot be reached" in status.out
