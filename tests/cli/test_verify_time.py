"""`polchain verify`: the options about time, and how time is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from polchain.anchors.chain import Chain
from polchain.anchors.interval import Interval, Pending, Unknown
from polchain.anchors.receipts import FiledReceipt
from polchain.cli.verdicts import time_rows
from polchain.core.claim import head_name
from polchain.core.note import sign_head
from polchain.verifier.times import StepSpan, Times
from tests.anchored import SIZE, AnchoredLog, changed, hash_of
from tests.anchors.authority import Root, receipt_of, sha256
from tests.anchors.worlds import Anvil, AnvilWorld
from tests.cli.conftest import Done

Call = Callable[..., Done]
AUTHORITY = Root("root").issue("tsa")


@pytest.fixture(scope="module")
def world(require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnvilWorld]:
    node = Anvil(require("anvil"))
    yield AnvilWorld(tmp_path_factory.mktemp("world"), node)
    node.stop()


@pytest.fixture
def log(world: AnvilWorld, tmp_path: Path) -> AnchoredLog:
    """Anchored alone up to step 20, in a batch as a whole."""
    log = AnchoredLog(tmp_path / "claim", world)
    log.anchor(5)
    log.anchor(SIZE, batch=True)
    return log


@pytest.fixture
def verify(log: AnchoredLog, call: Call) -> Callable[..., Done]:
    def run(*words: object, only: bool = True) -> Done:
        return call("verify", log.claim, "--key", log.key.public, *(["--integrity-only"] if only else []), *words)

    return run


def rows(done: Done, label: str) -> list[str]:
    """The values under a label."""
    found: list[str] = []
    inside = False
    for line in done.out.splitlines():
        name, _, value = line.partition("  ")
        inside = name == label if name else inside
        if inside:
            found.append(value.strip())
    return found


def test_time_is_one_line_for_each_span_of_steps(world: AnvilWorld, verify: Call) -> None:
    for only in (True, False):
        done = verify("--network", "local", "--rpc", world.node.address, only=only)
        assert done.code == (0 if only else 3)
        first, second = rows(done, "time")
        assert first.startswith("steps 0 to 20: not before unknown; not after local block ")
        assert first.endswith("UTC, final, weak: a local chain, whose blocks its owner dates, a single RPC")
        assert second.startswith("step 30: not before unknown; not after local block ")
        assert rows(done, "forks") == ["no other head of this log was published by the bound address on local"]
        assert "what, not when" not in done.out
        assert not any("no other head" in row for row in rows(done, "not checked"))
    assert "Replay proves that a program ran; only the program's text makes it learning." in done.out


def test_a_pinned_block_needs_no_node(log: AnchoredLog, verify: Call) -> None:
    pin = f"0x{hash_of(log.anchor(5)).hex()}"
    named = rows(verify("--network", "local", "--block-hash", pin), "time")[0]
    assert named.endswith("UTC, final, weak: a local chain, whose blocks its owner dates")
    unnamed = rows(verify("--block-hash", pin), "time")[0]
    assert unnamed.endswith(
        "UTC, final, weak: a local chain, whose blocks its owner dates, pinned without naming its network"
    )
    assert "unchecked" in rows(verify(), "time")[0]


def test_json_has_the_receipts_and_the_intervals(world: AnvilWorld, verify: Call) -> None:
    for only in (True, False):
        said = json.loads(verify("--rpc", world.node.address, "--json", only=only).out)
        first, second = said["anchors"]
        assert (first["source"], first["size"], first["step"], first["status"]) == ("ethereum-31337", 5, 20, "final")
        assert second["source"] == "ethereum-31337-batch"
        assert {"time", "margin", "weak", "reason"} <= first.keys()
        assert [(one["first_step"], one["last_step"]) for one in said["intervals"]] == [(0, 20), (30, 30)]
        assert said["intervals"][0]["not_before"] == {"status": "unknown"}
        assert said["intervals"][0]["not_after"]["status"] == "final"
        assert said["intervals"][0]["weaker"] == []
        assert "beacon" not in said
        assert "no other head of this log was published by the bound address on local" in said["remarks"]


def test_the_environment_stands_in_for_the_flags(
    world: AnvilWorld, verify: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POLCHAIN_RPC", world.node.address)
    assert "final" in rows(verify(), "time")[0]
    monkeypatch.setenv("POLCHAIN_NETWORK", "local")
    assert "final" in rows(verify(), "time")[0]
    # The policy's own node goes before the environment's; a flag joins the policy's.
    (tmp_path / "policy.toml").write_text('[[network]]\nname = "local"\nrpc = ["http://127.0.0.1:9"]\n')
    assert "127.0.0.1:9 cannot be reached" in rows(verify("--policy", tmp_path / "policy.toml"), "time")[0]
    monkeypatch.setenv("POLCHAIN_RPC", "http://127.0.0.1:9")
    assert "final" in rows(verify("--rpc", world.node.address), "time")[0]
    monkeypatch.setenv("POLCHAIN_NETWORK", "nowhere")
    assert verify().code == 2


def test_more_spans_than_one_reads_are_counted() -> None:
    spans = tuple(StepSpan(step, step, Interval(Unknown(), Pending())) for step in range(9))
    shown = time_rows(Times((), spans, None, (), ()))
    assert len(shown) == 7
    assert shown[0] == ("time", "step 0: not before unknown; not after pending")
    assert shown[-1] == ("", "and 3 more: --json")


def test_a_tsa_is_trusted_by_its_certificate(log: AnchoredLog, verify: Call, tmp_path: Path) -> None:
    token = AUTHORITY.token(sha256(log.note(6)), 7)
    log.put(FiledReceipt(6, receipt_of(token, 7, [AUTHORITY.der])), "rfc3161-whatever")
    (tmp_path / "ours.pem").write_bytes(AUTHORITY.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "ours.der").write_bytes(AUTHORITY.der)
    for named, source in (
        (tmp_path / "ours.pem", "TSA ours"),
        (tmp_path / "ours.der", "TSA ours"),
        (AUTHORITY.pin, "TSA sha256:"),
    ):
        done = verify("--tsa", named)
        assert f"not after {source}" in rows(done, "time")[0]
        assert "final" in rows(done, "time")[0]
    other = Root("root").issue("tsa")
    done = verify("--tsa", other.pin)
    assert any(row.startswith("a receipt from rfc3161-whatever is refused: ") for row in rows(done, "not checked"))


def test_a_beacon_is_in_the_json_and_its_worth_among_what_was_not_checked(
    world: AnvilWorld, tmp_path: Path, call: Call
) -> None:
    log = AnchoredLog(tmp_path / "claim", world, beacon=True)
    done = call("verify", log.claim, "--integrity-only", "--rpc", world.node.address)
    assert done.code == 0
    words = "the seed counts as the prover's own choice: local is a local chain, whose blocks its owner dates"
    assert words in rows(done, "not checked")
    said = json.loads(call("verify", log.claim, "--integrity-only", "--json").out)["beacon"]
    assert (said["network"], said["chain"], said["status"], said["counts_as"]) == (
        "local",
        31337,
        "unchecked",
        "prover",
    )
    log.drop("anchors/beacon.json")
    done = call("verify", log.claim, "--integrity-only")
    assert done.code == 0
    assert "which the claim does not show" in rows(done, "missing")[0]
    done = call("verify", log.claim)
    assert done.code == 3
    assert any("which the claim does not show" in row for row in rows(done, "because"))


def test_equivocation_prints_both_notes_whole(log: AnchoredLog, verify: Call, tmp_path: Path) -> None:
    forged = sign_head(replace(log.head(5), root=bytes(32)), log.key)
    (tmp_path / "forged.note").write_bytes(forged)
    honest = (log.claim / head_name(5)).read_bytes()
    done = verify("--head", tmp_path / "forged.note")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("polchain: error: the prover signed two heads of one log that contradict each other: ")
    for note in (honest, forged):
        lines = [f"    {line}".rstrip() for line in note.decode().splitlines()]
        assert "\n".join(lines) in done.err
    said = json.loads(verify("--head", tmp_path / "forged.note", "--json").out)["error"]
    assert (said["name"], said["exit_code"]) == ("EquivocationError", 1)
    assert honest.decode() in said["message"]
    assert forged.decode() in said["message"]


def test_a_head_from_elsewhere_that_belongs_is_fine(log: AnchoredLog, verify: Call, tmp_path: Path) -> None:
    for size in (1, 5, SIZE):
        (tmp_path / f"{size}.note").write_bytes(log.note(size))
    heads = [word for size in (1, 5, SIZE) for word in ("--head", tmp_path / f"{size}.note")]
    assert verify(*heads).code == 0
    assert verify("--head", tmp_path / "none.note").code == 4
    (tmp_path / "noise.note").write_bytes(b"\xff" * 70_000)
    done = verify("--head", tmp_path / "noise.note")
    assert (done.code, done.out) == (1, "")
    assert f"--head {tmp_path / 'noise.note'}: " in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network", "nowhere"], "no network is called 'nowhere'"),
        (["--rpc", "ftp://x"], "a node at ftp: is not understood"),
        (["--rpc", "http://[x"], "a node's address cannot be read"),
        (["--block-hash", "0x12"], "--block-hash 0x12: '0x12' is no block's hash"),
        (["--tsa", "sha256:12"], "--tsa sha256:12: "),
        (["--tsa", "none.pem"], "--tsa none.pem: cannot read the certificate none.pem"),
    ],
)
def test_an_option_that_cannot_be_read_is_named(verify: Call, words: list[str], said: str) -> None:
    done = verify(*words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_block_that_the_node_denies_is_refused_and_nodes_that_contradict_each_other_are_exit_4(
    world: AnvilWorld, verify: Call, require: Callable[[str], str]
) -> None:
    other = Anvil(require("anvil"))
    try:
        Chain.connect(other.address).ask("anvil_mine", hex(500))
        done = verify("--rpc", other.address)
        assert done.code == 0
        assert any("is refused: block 0x" in row for row in rows(done, "not checked"))
        assert all("not after unknown" in row for row in rows(done, "time"))
        assert verify("--rpc", other.address, "--rpc", world.node.address).code == 4
    finally:
        other.stop()


def test_nothing_that_the_prover_wrote_steers_a_terminal(log: AnchoredLog, verify: Call) -> None:
    filed = log.anchor(5)
    log.put(changed(filed, network="\x1b[31mmainnet\x07\u202e"))
    done = verify()
    assert done.code == 0
    assert "mainnet" not in done.out, "the prover's word for the chain is not believed"
    assert "\x1b" not in done.out + verify("--json").out
