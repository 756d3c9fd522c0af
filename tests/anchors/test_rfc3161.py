"""Time-stamp tokens: a real authority's are accepted, and every way to make up one is refused by name."""

from __future__ import annotations

import base64
import functools
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import rfc3161_client.verify
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from rfc3161_client import VerifierBuilder, decode_timestamp_response

from polchain.anchors.base import Receipt, Target, target_of
from polchain.anchors.der import integer, oid, wrap
from polchain.anchors.rfc3161 import Rfc3161Anchor, check_token, submit_all
from polchain.anchors.transport import post
from polchain.anchors.tsa import Tsa
from polchain.core.digest import Digest
from polchain.core.keys import PrivateKey
from polchain.core.note import TreeHead, origin_of, sign_head
from polchain.errors import AnchorError, AnchorUnavailableError, FormatError, UsageError
from tests.anchors.authority import (
    DAY,
    NOW,
    OTHER_POLICY,
    POLICY,
    OpensslTsa,
    Root,
    Signer,
    accurate,
    der_of,
    eku,
    granted,
    receipt_of,
    replying,
    serve,
    sha256,
)

KEY = PrivateKey.generate()
HEAD = TreeHead(origin_of(KEY.public, bytes(16)), 42, bytes(range(32)))
TARGET = target_of(HEAD, sign_head(HEAD, KEY))
OTHER = target_of(HEAD, sign_head(TreeHead(HEAD.origin, 43, HEAD.root), KEY))
IMPRINT = sha256(TARGET.note)
NONCE = 0x0123456789ABCDEF

ROOT = Root("root")
BETWEEN = ROOT.issue("between", ca=True)
SIGNER = BETWEEN.issue("tsa")
PINNED = Tsa("honest", certificates=frozenset({SIGNER.pin}))
ROOTED = Tsa("honest", roots=(ROOT.der,))
BOTH = Tsa("honest", certificates=frozenset({SIGNER.pin}), roots=(ROOT.der,))
TRUSTED = {"pin": PINNED, "root": ROOTED, "both": BOTH}


def honest(signer: Signer = SIGNER, **changes: object) -> Receipt:
    """A token made here; with no changes, an honest one."""
    made = {"imprint": IMPRINT, "nonce": NONCE, **changes}
    return receipt_of(signer.token(**made), NONCE, [signer.der, BETWEEN.der])  # type: ignore[arg-type]


def refuse(receipt: Receipt, why: str, *tsas: Tsa, target: Target = TARGET) -> None:
    for tsa in tsas or TRUSTED.values():
        with pytest.raises(AnchorError, match=why):
            check_token(receipt, target, (tsa,))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def openssl(require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Signer], OpensslTsa]:
    path = require("openssl")
    return lambda signer: OpensslTsa(signer, tmp_path_factory.mktemp("tsa") / "tsa", path)


@pytest.fixture(scope="module")
def real(openssl: Callable[[Signer], OpensslTsa]) -> Iterator[str]:
    """The URL of an authority that `openssl ts` runs."""
    with serve(replying(openssl(SIGNER))) as url:
        yield url


# A real authority


@pytest.mark.parametrize("trust", TRUSTED)
def test_a_real_authority_says_when_it_saw_the_note(real: str, trust: str) -> None:
    tsa = TRUSTED[trust]
    prover = Tsa("honest", real, tsa.certificates, tsa.roots, policy=POLICY, chain=(BETWEEN.der,))
    before = int(time.time())
    receipt = Rfc3161Anchor(prover).submit(TARGET)
    assert receipt.status == "final"
    stamp = Rfc3161Anchor(tsa).check(receipt, TARGET)
    assert before <= stamp.time <= time.time() + 1
    assert (stamp.source, stamp.margin, stamp.status, stamp.weak) == ("TSA honest", 2, "final", ())
    assert Rfc3161Anchor(tsa).upgrade(receipt, TARGET) is receipt
    refuse(receipt, "something else than this note", tsa, target=OTHER)


def test_the_receipt_keeps_the_whole_chain_and_openssl_reads_its_token(
    real: str, tmp_path: Path, require: Callable[[str], str]
) -> None:
    prover = Tsa("honest", real, roots=(ROOT.der,), chain=(BETWEEN.der,))
    body = Rfc3161Anchor(prover).submit(TARGET).body
    assert isinstance(body["certificates"], list)
    assert body["certificates"] == [base64.b64encode(der).decode() for der in (SIGNER.der, BETWEEN.der, ROOT.der)]
    (tmp_path / "token").write_bytes(base64.b64decode(str(body["token"])))
    (tmp_path / "note").write_bytes(TARGET.note)
    (tmp_path / "root").write_bytes(ROOT.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "between").write_bytes(BETWEEN.certificate.public_bytes(Encoding.PEM))
    command = [require("openssl"), "ts", "-verify", "-token_in", "-in", "token", "-data", "note"]
    command += ["-CAfile", "root", "-untrusted", "between"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
    assert "Verification: OK" in done.stdout + done.stderr


def test_the_policy_is_asked_for(real: str) -> None:
    prover = Tsa("honest", real, frozenset({SIGNER.pin}), policy=OTHER_POLICY)
    receipt = Rfc3161Anchor(prover).submit(TARGET)
    assert check_token(receipt, TARGET, [prover]).status == "final"
    demanding = Tsa("honest", certificates=frozenset({SIGNER.pin}), policy=POLICY)
    refuse(receipt, f"under policy {OTHER_POLICY}, not under {POLICY}", demanding)
    unknown = Tsa("honest", real, frozenset({SIGNER.pin}), policy="1.2.3.4.6")
    with pytest.raises(AnchorUnavailableError, match="rejected"):
        Rfc3161Anchor(unknown).submit(TARGET)


def test_several_authorities_in_one_call_and_one_that_fails_loses_nothing(
    real: str, openssl: Callable[[Signer], OpensslTsa]
) -> None:
    second = Root("second root", rsa.generate_private_key(65537, 2048)).issue("second")
    with serve(replying(openssl(second))) as url:
        tsas = [
            Tsa("first", real, frozenset({SIGNER.pin})),
            Tsa("dead", "http://127.0.0.1:1/"),
            Tsa("second", url, frozenset({second.pin})),
        ]
        one, dead, two = submit_all([Rfc3161Anchor(tsa) for tsa in tsas], TARGET)
    assert isinstance(dead, AnchorUnavailableError)
    assert isinstance(one, Receipt)
    assert isinstance(two, Receipt)
    assert check_token(one, TARGET, tsas).source == "TSA first"
    assert check_token(two, TARGET, tsas).source == "TSA second"
    refuse(two, "not pinned", tsas[0])
    assert submit_all([], TARGET) == []


def test_an_authority_that_answers_with_another_certificate_is_not_kept(real: str) -> None:
    for wrong in (Tsa("a", real, frozenset({ROOT.pin})), Tsa("a", real, roots=(Root("another").der,))):
        with pytest.raises(AnchorUnavailableError, match=r"a useless answer: TSA a: the token"):
            Rfc3161Anchor(wrong).submit(TARGET)


# Tokens made here


@pytest.mark.parametrize("trust", TRUSTED)
def test_a_token_made_here_is_as_good_as_a_real_one(trust: str) -> None:
    assert check_token(honest(), TARGET, [TRUSTED[trust]]).time == int(NOW.timestamp())
    signer = BETWEEN.issue("rsa", key=rsa.generate_private_key(65537, 2048))
    tsa = Tsa("rsa", certificates=frozenset({signer.pin}), roots=(ROOT.der,))
    assert check_token(honest(signer), TARGET, [tsa]).status == "final"


def test_the_margin_is_the_tokens_accuracy_rounded_up_or_the_policys() -> None:
    def margin(**changes: object) -> int:
        return check_token(honest(**changes), TARGET, [PINNED]).margin

    assert margin() == 60
    assert margin(accuracy=accurate(0)) == 0
    assert margin(accuracy=accurate(30)) == 30
    assert margin(accuracy=accurate(1, 1)) == 2
    assert margin(accuracy=wrap(0x30, wrap(0x80, b"\x05"))) == 1
    assert margin(accuracy=wrap(0x30)) == margin(), "an accuracy that states nothing passed for one of zero seconds"
    refuse(honest(accuracy=accurate(10**6)), "says nothing")


def test_a_fraction_of_a_second_counts_as_a_whole_one() -> None:
    receipt = honest(time=f"{NOW:%Y%m%d%H%M%S}.25Z")
    assert check_token(receipt, TARGET, [BOTH]).time == int(NOW.timestamp()) + 1


def test_a_token_of_something_else_is_refused() -> None:
    refuse(honest(imprint=sha256(OTHER.note)), "something else than this note")
    refuse(honest(algorithm=wrap(0x30, oid("2.16.840.1.101.3.4.2.2"))), "something else than this note")
    refuse(honest(nonce=NONCE + 1), "nonce")
    refuse(honest(nonce=None), "nonce")
    refuse(honest(policy=OTHER_POLICY), "policy", Tsa("p", certificates=frozenset({SIGNER.pin}), policy=POLICY))
    batch = Target(bytes(32), bytes(32), 3)
    refuse(honest(), "a batch", target=batch)
    refuse(Receipt("ethereum", "final", honest().body), "no time-stamp token")
    with pytest.raises(UsageError, match="not a batch"):
        Rfc3161Anchor(Tsa("honest", "http://127.0.0.1:1/")).submit(batch)


def test_a_token_whose_signature_does_not_fit_is_refused() -> None:
    refuse(honest(signed=b"another content"), "not what was signed")
    refuse(honest(meant=ROOT.der), "for another certificate")
    refuse(honest(content_type=oid("1.2.840.113549.1.7.1")), "another type of content")
    with pytest.raises(FormatError, match="more than one signer"):
        check_token(honest(signers=2), TARGET, [BOTH])
    twin = Root("x").issue("tsa", serial=SIGNER.certificate.serial_number)
    assert check_token(honest(certificates=sorted([SIGNER.der, twin.der])), TARGET, [BOTH]).status == "final"
    twin = Root("root").issue("between", ca=True).issue("tsa", serial=SIGNER.certificate.serial_number)
    refuse(honest(certificates=sorted([SIGNER.der, twin.der])), "two different certificates")
    impostor = Signer(Root("x").key, SIGNER.certificate)
    refuse(honest(impostor), "signature is wrong")
    key = rsa.generate_private_key(65537, 2048)
    refuse(honest(Signer(key, SIGNER.certificate)), "not one for the TSA's key")


def forged() -> dict[str, Receipt]:
    """An authority of the forger's own, dressed up in every way; some of these passed rfc3161-client 1.0.8."""
    root = Root("root")
    between = root.issue("between", ca=True)
    signer = between.issue("tsa", serial=SIGNER.certificate.serial_number)
    alone = Root("root").issue("tsa")
    chain = [signer.der, between.der, root.der]
    true = [SIGNER.der, BETWEEN.der, ROOT.der]
    own = [alone.der, ROOT.der]
    return {
        "its root in the token": receipt_of(signer.token(IMPRINT, NONCE, certificates=chain), NONCE),
        "its root in the receipt": receipt_of(signer.token(IMPRINT, NONCE), NONCE, chain),
        "its root in both": receipt_of(signer.token(IMPRINT, NONCE, certificates=chain), NONCE, chain),
        "one step": receipt_of(alone.token(IMPRINT, NONCE, certificates=own), NONCE, [ROOT.der]),
        "the true chain beside": receipt_of(alone.token(IMPRINT, NONCE, certificates=[alone.der, *true]), NONCE, true),
        "the same serial twice": receipt_of(signer.token(IMPRINT, NONCE, certificates=[*chain, *true]), NONCE, true),
        "the true certificate": receipt_of(signer.token(IMPRINT, NONCE, certificates=true), NONCE, true),
        "it means the true certificate": receipt_of(
            signer.token(IMPRINT, NONCE, certificates=true, meant=SIGNER.der), NONCE, true
        ),
    }


@pytest.mark.parametrize("name", forged())
@pytest.mark.parametrize("library", ["as it is", "accepts everything"])
def test_a_forged_authority_is_refused_whatever_the_library_says(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "accepts everything":
        monkeypatch.setattr(rfc3161_client.verify._Verifier, "verify", lambda *_: True)
    why = "not pinned|does not lead|two different|another certificate|signature is wrong"
    refuse(forged()[name], why)


def test_a_forged_authority_run_by_openssl_is_refused(openssl: Callable[[Signer], OpensslTsa]) -> None:
    mine = Root("root").issue("tsa")
    with serve(replying(openssl(mine))) as url:
        receipt = Rfc3161Anchor(Tsa("honest", url)).submit(TARGET)
    refuse(receipt, "not pinned|does not lead to a pinned root")
    refuse(receipt, "nothing is pinned", Tsa("trusting"))
    with pytest.raises(AnchorError, match="no time-stamping authority is trusted"):
        check_token(receipt, TARGET, ())


def test_rfc3161_client_no_longer_trusts_an_embedded_root() -> None:
    receipt = forged()["its root in the token"]
    answer = decode_timestamp_response(granted(base64.b64decode(str(receipt.body["token"]))))
    with pytest.raises(rfc3161_client.VerificationError):
        VerifierBuilder(roots=[ROOT.certificate]).build().verify(answer, IMPRINT)


def test_another_certificate_under_the_same_root_is_no_authority() -> None:
    usages = [
        (eku(ExtendedKeyUsageOID.EMAIL_PROTECTION), "not for time-stamping"),
        (eku(ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING), "not for that alone"),
        (eku(critical=False), "critically"),
        ((x509.KeyUsage(True, *[False] * 8), True), "no extended key usage"),
    ]
    for usage, why in usages:
        signer = BETWEEN.issue("tsa", usage=usage)
        pinned = Tsa("p", certificates=frozenset({signer.pin}))
        refuse(honest(signer), why, pinned, ROOTED)


def test_a_certificate_that_was_not_valid_then_is_refused() -> None:
    for valid in ((NOW - 2 * DAY, NOW - DAY), (NOW + DAY, NOW + 2 * DAY)):
        signer = BETWEEN.issue("tsa", valid=valid)
        refuse(honest(signer), "not valid at the token's time", Tsa("p", certificates=frozenset({signer.pin})), ROOTED)
    refuse(honest(time=f"{NOW - 9 * DAY:%Y%m%d%H%M%S}Z"), "not valid at the token's time")
    # It has expired since, and its tokens from before still count.
    old = BETWEEN.issue("tsa", valid=(NOW - 9 * DAY, NOW - 7 * DAY))
    stamp = f"{NOW - 8 * DAY:%Y%m%d%H%M%S}Z"
    pinned = Tsa("p", certificates=frozenset({old.pin}))
    assert check_token(honest(old, time=stamp), TARGET, [pinned]).time == int((NOW - 8 * DAY).timestamp())


def test_a_path_leads_through_authorities_that_were_valid_and_may_issue() -> None:
    def through(between: Signer) -> Receipt:
        signer = between.issue("tsa")
        return receipt_of(signer.token(IMPRINT, NONCE), NONCE, [signer.der, between.der])

    no_path = "does not lead to a pinned root"
    expired = ROOT.issue("between", ca=True, valid=(NOW - 3 * DAY, NOW - DAY))
    refuse(through(expired), no_path, ROOTED)
    refuse(through(ROOT.issue("leaf")), no_path, ROOTED)
    refuse(through(ROOT.issue("leaf", usage=(x509.BasicConstraints(False, None), True))), no_path, ROOTED)
    no_sign = ROOT.issue("between", ca=True, extensions=[(x509.KeyUsage(True, *[False] * 8), True)])
    refuse(through(no_sign), no_path, ROOTED)
    short = Root("root")
    low = short.issue("low", usage=(x509.BasicConstraints(True, 0), True))
    signer = low.issue("deeper", ca=True).issue("tsa")
    deep = receipt_of(signer.token(IMPRINT, NONCE), NONCE, [signer.der, *map(der_of, signer.above), low.der])
    refuse(deep, no_path, Tsa("short", roots=(short.der,)))
    # A root that is pinned, but by another key; and one that comes without what stands between.
    refuse(honest(), no_path, Tsa("other", roots=(Root("root").der,)))
    refuse(receipt_of(SIGNER.token(IMPRINT, NONCE), NONCE), no_path, ROOTED)
    # Where both are demanded, one does not do.
    refuse(honest(), no_path, Tsa("both", certificates=frozenset({SIGNER.pin}), roots=(Root("root").der,)))
    refuse(honest(), "not pinned", Tsa("both", certificates=frozenset({ROOT.pin}), roots=(ROOT.der,)))


def test_one_of_several_trusted_authorities_is_enough() -> None:
    others = [Tsa("other", certificates=frozenset({ROOT.pin})), Tsa("empty")]
    assert check_token(honest(), TARGET, [*others, BOTH]).source == "TSA honest"
    strict = Tsa("strict", certificates=frozenset({SIGNER.pin}), policy=OTHER_POLICY)
    with pytest.raises(AnchorError, match="TSA strict"):
        check_token(honest(), TARGET, [others[0], strict, others[1]])


# Bytes


def test_truncated_and_random_tokens_are_refused_by_name() -> None:
    token = SIGNER.token(IMPRINT, NONCE)
    draw = random.Random(3161)
    cases = [token[:length] for length in range(0, len(token), 7)]
    cases += [draw.randbytes(draw.randrange(200)) for _ in range(200)]
    cases += [b"\x30" * 5000, b"\x30\x80" + token[4:], token + b"\x00", bytes(300_000)]
    for data in cases:
        with pytest.raises(FormatError):
            check_token(receipt_of(data, NONCE), TARGET, [BOTH])


def test_a_flipped_bit_is_refused_or_was_never_signed() -> None:
    token = SIGNER.token(IMPRINT, NONCE, certificates=[SIGNER.der, BETWEEN.der])
    draw = random.Random(5816)
    for at in draw.sample(range(len(token) * 8), 1500):
        changed = bytearray(token)
        changed[at // 8] ^= 1 << at % 8
        try:
            stamp = check_token(receipt_of(bytes(changed), NONCE, [SIGNER.der, BETWEEN.der]), TARGET, [PINNED])
        except (AnchorError, FormatError):
            continue
        assert stamp == check_token(honest(), TARGET, [PINNED])


def test_flipped_bits_in_the_certificates_are_refused_by_name() -> None:
    draw = random.Random(5280)
    for at in draw.sample(range(len(SIGNER.der) * 8), 500):
        changed = bytearray(SIGNER.der)
        changed[at // 8] ^= 1 << at % 8
        receipt = receipt_of(SIGNER.token(IMPRINT, NONCE, certificates=[bytes(changed)]), NONCE, [BETWEEN.der])
        with pytest.raises((AnchorError, FormatError)):
            check_token(receipt, TARGET, [BOTH])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hash", "sha1"),
        ("nonce", "0x1"),
        ("nonce", "0123456789ABCDEF"),
        ("nonce", 7),
        ("token", "!"),
        ("token", "AB=="),
        ("token", "A" * 400_000),
        ("certificates", [7]),
        ("certificates", ["AAAA"]),
        ("certificates", ["A" * 40_000]),
        ("certificates", [""] * 17),
        ("certificates", {}),
        ("more", "x"),
    ],
)
def test_a_body_of_another_form_is_refused(field: str, value: object) -> None:
    body = {**honest().body, field: value}
    with pytest.raises(FormatError):
        check_token(Receipt("rfc3161", "final", body), TARGET, [BOTH])  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["token", "certificates", "hash", "nonce"])
def test_a_body_with_a_field_missing_is_refused(missing: str) -> None:
    body = {name: value for name, value in honest().body.items() if name != missing}
    with pytest.raises(FormatError, match=missing):
        check_token(Receipt("rfc3161", "final", body), TARGET, [BOTH])


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "file:///etc/passwd"},
        {"url": "ftp://localhost/"},
        {"url": "http://"},
        {"url": "http://me:secret@localhost/"},
        {"url": "http://localhost:port/"},
        {"url": "http://localhost/a b"},
        {"policy": "tsa_policy1"},
        {"policy": "1.50.3"},
        {"certificates": frozenset({Digest("blake3", bytes(32))})},
        {"roots": (b"-----BEGIN CERTIFICATE-----",)},
        {"roots": (BETWEEN.der,)},
        {"chain": (bytes(20_000),)},
        {"margin": -1},
    ],
)
def test_an_authority_that_cannot_be_meant_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Tsa("wrong", **wrong)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_an_authority_for_another_purpose_issues_no_time_stamping_certificate() -> None:
    anything, stamping = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, ExtendedKeyUsageOID.TIME_STAMPING
    rooted = Tsa("rooted", roots=(ROOT.der,))
    for usage, believed in (
        (eku(ExtendedKeyUsageOID.EMAIL_PROTECTION), False),
        (eku(ExtendedKeyUsageOID.SERVER_AUTH, critical=False), False),
        (eku(stamping), True),
        (eku(ExtendedKeyUsageOID.SERVER_AUTH, anything), True),
    ):
        between = ROOT.issue("between", ca=True, extensions=[usage])
        signer = between.issue("its TSA")
        receipt = receipt_of(signer.token(IMPRINT, NONCE), NONCE, [signer.der, between.der])
        if believed:
            assert check_token(receipt, TARGET, [rooted]).status == "final"
        else:
            refuse(receipt, "does not lead to a pinned root", rooted)


# The network


def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def slow(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    time.sleep(3)


def trickling(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    send(handler, 200, {"Content-Length": "1000"})
    for _ in range(30):
        handler.wfile.write(b"\x30")
        handler.wfile.flush()
        time.sleep(0.1)


def endless(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    send(handler, 200, {})
    for _ in range(1000):
        handler.wfile.write(bytes(65536))


BAD_ANSWERS = {
    "slow": (slow, "no whole answer|timed out"),
    "trickling": (trickling, "no whole answer"),
    "endless": (endless, "over 262144 bytes"),
    "ends early": (lambda h, _: send(h, 200, {"Content-Length": "100"}, b"0"), "early|Incomplete"),
    "an error": (lambda h, _: send(h, 503, {"Content-Length": "0"}), "HTTP 503"),
    "a redirect": (lambda h, _: send(h, 302, {"Location": "http://127.0.0.1:1/", "Content-Length": "0"}), "HTTP 302"),
    "not HTTP": (lambda h, _: h.wfile.write(b"hello\r\n\r\n"), "hello"),
    "hangs up": (lambda h, _: None, "without response|reset"),
    "empty": (replying(lambda _: b""), "useless"),
    "a page": (replying(lambda _: b"<html>no</html>"), "useless"),
    "rejected": (replying(lambda _: wrap(0x30, wrap(0x30, integer(2)))), "rejected"),
    "an unknown status": (replying(lambda _: wrap(0x30, wrap(0x30, integer(77)))), "status 77"),
    "granted without a token": (replying(lambda _: granted(b"")), "useless"),
    "a token of another request": (replying(lambda _: granted(SIGNER.token(IMPRINT, NONCE))), "nonce"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_a_bad_answer_is_a_service_that_is_missing(name: str) -> None:
    respond, why = BAD_ANSWERS[name]
    with serve(respond) as url:  # type: ignore[arg-type]
        anchor = Rfc3161Anchor(Tsa("bad", url), functools.partial(post, timeout=0.7))
        begun = time.monotonic()
        with pytest.raises(AnchorUnavailableError, match=why):
            anchor.submit(TARGET)
        assert time.monotonic() - begun < 2


def test_nothing_is_left_of_an_answer_that_came_too_slowly() -> None:
    def forever(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        send(handler, 200, {"Content-Length": "100000"})
        while True:
            handler.wfile.write(b"\x30")
            time.sleep(0.05)

    def waiting() -> int:
        return sum(thread.name == "polchain-post" for thread in threading.enumerate())

    with serve(forever) as url:
        before = waiting()
        for _ in range(3):
            with pytest.raises(AnchorUnavailableError, match="no whole answer"):
                post(url, b"", "text/plain", timeout=0.3)
        until = time.monotonic() + 5
        while waiting() > before and time.monotonic() < until:
            time.sleep(0.02)
        assert waiting() <= before, "threads still read what nobody waits for"


def test_nobody_there_is_a_service_that_is_missing() -> None:
    for url in ("http://127.0.0.1:1/", "http://localhost.invalid/"):
        with pytest.raises(AnchorUnavailableError):
            Rfc3161Anchor(Tsa("nobody", url), functools.partial(post, timeout=1.0)).submit(TARGET)
    with pytest.raises(UsageError, match="no URL"):
        Rfc3161Anchor(PINNED).submit(TARGET)


def test_granted_with_changes_is_checked_like_any_other() -> None:
    def answering(url: str, body: bytes, content_type: str) -> bytes:
        assert content_type == "application/timestamp-query"
        at = body.rindex(b"\x02", 0, len(body) - 3 - 7)
        nonce = int.from_bytes(body[at + 2 : at + 2 + body[at + 1]], "big")
        return granted(SIGNER.token(IMPRINT, nonce), status=1)

    anchor = Rfc3161Anchor(Tsa("changed", "http://localhost/", frozenset({SIGNER.pin})), answering)
    assert anchor.check(anchor.submit(TARGET), TARGET).status == "final"
