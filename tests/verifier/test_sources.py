"""Sources of time in a policy: read as meant, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from polchain.anchors.networks import named
from polchain.errors import PolicyError, UsageError
from polchain.verifier.policy import Policy
from polchain.verifier.sources import Sources, TrustedNetwork
from tests.anchors.authority import Root

ROOT = Root("root")
TSA = ROOT.issue("tsa")
BLOCK = "0x" + "Ab" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy's folder, with certificates beside it."""
    (tmp_path / "root.pem").write_bytes(ROOT.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "root.der").write_bytes(ROOT.der)
    (tmp_path / "tsa.pem").write_bytes(TSA.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "noise.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "big.pem").write_bytes(b"#" * 300_000)
    return tmp_path


def read(folder: Path, text: str) -> Sources:
    (folder / "policy.toml").write_text(text)
    return Policy.read(folder / "policy.toml").sources


def test_sources_are_read_as_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # paths are from the policy's folder
    sources = read(
        folder,
        f"""
        [[network]]
        name = "sepolia"
        rpc = ["https://one.example/key", "/run/node.ipc"]
        blocks = ["{BLOCK}"]

        [[network]]
        name = "hoodi"

        [[tsa]]
        name = "pinned"
        certificates = ["{TSA.pin}"]
        policy = "1.2.3"
        margin = 5

        [[tsa]]
        name = "rooted"
        roots = ["root.pem", "root.der"]
        """,
    )
    sepolia, hoodi = sources.networks
    assert sepolia == TrustedNetwork(
        named("sepolia"), ("https://one.example/key", "/run/node.ipc"), frozenset({bytes.fromhex(BLOCK[2:])})
    )
    assert hoodi == TrustedNetwork(named("hoodi"))
    assert sources.of(11155111) is sepolia
    assert sources.of(1) is None
    pinned, rooted = sources.tsas
    assert (pinned.name, pinned.certificates, pinned.policy, pinned.margin) == ("pinned", {TSA.pin}, "1.2.3", 5)
    assert (rooted.roots, rooted.margin) == ((ROOT.der, ROOT.der), 60)


def test_nobody_is_believed_who_is_not_named(folder: Path) -> None:
    assert read(folder, "") == Sources() == Policy().sources


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[network]\nname = 'sepolia'", "each under [[network]]"),
        ("network = ['sepolia']", "each under [[network]]"),
        ("[[network]]", "name is a string, and must be there"),
        ("[[network]]\nname = ''", "name is a string, and must be there"),
        ("[[network]]\nname = 5", "name is a string"),
        ("[[network]]\nname = 'nowhere'", "no network is called 'nowhere'"),
        ("[[network]]\nname = 'sepolia'\nurl = 'x'", "[[network]]: unknown name 'url'"),
        ("[[network]]\nname = 'sepolia'\nrpc = 'https://x'", "rpc is a list of strings"),
        ("[[network]]\nname = 'sepolia'\nrpc = ['ftp://x']", "a node at ftp: is not understood"),
        ("[[network]]\nname = 'sepolia'\nrpc = ['']", "a node at nowhere: is not understood"),
        ("[[network]]\nname = 'sepolia'\nrpc = ['https://']", "is not understood"),
        ("[[network]]\nname = 'sepolia'\nrpc = ['https://[secret']", "a node's address cannot be read"),
        ("[[network]]\nname = 'sepolia'\nrpc = ['https://x:99999']", "a node's address cannot be read"),
        ("[[network]]\nname = 'sepolia'\nblocks = ['0x12']", "is no block's hash"),
        ("[[network]]\nname = 'sepolia'\nblocks = [12]", "blocks is a list of strings"),
        ("[[network]]\nname = 'sepolia'\n[[network]]\nname = 'sepolia'", "two networks are chain 11155111"),
        ("[[tsa]]", "name is a string, and must be there"),
        ("[[tsa]]\nname = 'x'", "neither certificates nor roots"),
        ("[[tsa]]\nname = 'x'\nurl = 'https://x'", "[[tsa]]: unknown name 'url'"),
        ("[[tsa]]\nname = 'x'\ncertificates = ['sha256:00']", "digest"),
        (f"[[tsa]]\nname = 'x'\ncertificates = ['blake3:{'00' * 32}']", "is pinned by its SHA-256"),
        ("[[tsa]]\nname = 'x'\nroots = ['none.pem']", "cannot read the certificate"),
        ("[[tsa]]\nname = 'x'\nroots = ['.']", "cannot read the certificate"),
        ("[[tsa]]\nname = 'x'\nroots = ['noise.pem']", "holds no certificate, PEM or DER"),
        ("[[tsa]]\nname = 'x'\nroots = ['policy.toml']", "holds no certificate, PEM or DER"),
        ("[[tsa]]\nname = 'x'\nroots = ['big.pem']", "is over"),
        ("[[tsa]]\nname = 'x'\nroots = ['tsa.pem']", "a root is a certificate that was issued by nobody else"),
        ("[[tsa]]\nname = 'x'\nroots = ['root.pem']\nmargin = 1.5", "margin is a whole number"),
        ("[[tsa]]\nname = 'x'\nroots = ['root.pem']\nmargin = true", "margin is a whole number"),
        ("[[tsa]]\nname = 'x'\nroots = ['root.pem']\nmargin = -1", "not between 0 and a day"),
        ("[[tsa]]\nname = 'x'\nroots = ['root.pem']\npolicy = 'one'", "is not an OID"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(folder: Path, text: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read(folder, text)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2
    assert "secret" not in str(caught.value), "an address may hold a key"


def test_more_nodes_and_blocks_join_those_that_are_listed() -> None:
    sepolia, pin = named("sepolia"), bytes(32)
    listed = Sources((TrustedNetwork(sepolia, ("https://one",)),))
    more = listed.plus(sepolia, ["https://two", "https://one"], [pin])
    assert more.networks == (TrustedNetwork(sepolia, ("https://one", "https://two"), frozenset({pin})),)
    unnamed = listed.plus(rpc=["https://two"], blocks=[pin])
    assert (unnamed.networks, unnamed.rpc, unnamed.blocks) == (listed.networks, ("https://two",), {pin})
    with pytest.raises(UsageError, match="not understood"):
        listed.plus(rpc=["two"[:0]])
