"""Time-stamping authorities for the tests: a real one that `openssl ts` runs, and one that signs whatever it is told.

    root = Root("root")
    tsa = root.issue("tsa")                                  a certificate and its key
    tsa.token(imprint, nonce)                                a token made here: anything about it can be wrong
    with serve(replying(OpensslTsa(tsa, folder))) as url:    the real thing

Nothing but loopback is used.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from polchain.anchors.base import Receipt
from polchain.anchors.der import GENERALIZED_TIME, NULL, OCTETS, SEQUENCE, SET, integer, oid, wrap
from polchain.core.digest import Digest

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
POLICY = "1.2.3.4.1"
OTHER_POLICY = "1.2.3.4.5"

SHA256 = wrap(SEQUENCE, oid("2.16.840.1.101.3.4.2.1"), wrap(NULL))
TST_INFO = oid("1.2.840.113549.1.9.16.1.4")
CONFIG = f"""
[tsa]
serial = serial
signer_cert = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = {POLICY}
other_policies = {OTHER_POLICY}
digests = sha256
accuracy = secs:1, millisecs:500, microsecs:100
clock_precision_digits = 3
ess_cert_id_alg = sha256
"""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def eku(*usages: x509.ObjectIdentifier, critical: bool = True) -> tuple[x509.ExtensionType, bool]:
    return x509.ExtendedKeyUsage(usages or [ExtendedKeyUsageOID.TIME_STAMPING]), critical


class Signer:
    """A key and its certificate; `above` are the certificates between it and its root."""

    def __init__(self, key: Key, certificate: x509.Certificate, above: Sequence[x509.Certificate] = ()) -> None:
        self.key = key
        self.certificate = certificate
        self.above = tuple(above)

    @property
    def der(self) -> bytes:
        return der_of(self.certificate)

    @property
    def pin(self) -> Digest:
        return Digest("sha256", hashlib.sha256(self.der).digest())

    def issue(
        self,
        name: str,
        *,
        usage: tuple[x509.ExtensionType, bool] | None = None,
        ca: bool = False,
        valid: tuple[datetime.datetime, datetime.datetime] = (NOW - DAY, NOW + DAY),
        serial: int | None = None,
        key: Key | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> Signer:
        """A certificate for time-stamping; with `ca`, one that issues others."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        given = [(x509.BasicConstraints(True, None), True)] if ca else [usage or eku()]
        certificate = certify(name, key, self.certificate.subject, self.key, [*given, *extensions], valid, serial)
        return Signer(key, certificate, [certificate, *self.above] if ca else self.above)

    def token(
        self,
        imprint: bytes,
        nonce: int | None,
        *,
        policy: str = POLICY,
        time: str = "",
        accuracy: bytes = b"",
        certificates: Sequence[bytes] | None = None,
        algorithm: bytes = SHA256,
        meant: bytes | None = None,
        signed: bytes | None = None,
        content_type: bytes = TST_INFO,
        signers: int = 1,
    ) -> bytes:
        """A TimeStampToken. `meant` is the certificate that it says signed it, `signed` what is signed instead."""
        stamp = (time or f"{NOW:%Y%m%d%H%M%S}Z").encode()
        repeated = integer(nonce) if nonce is not None else b""
        imprinted = wrap(SEQUENCE, algorithm, wrap(OCTETS, imprint))
        info = wrap(
            SEQUENCE, integer(1), oid(policy), imprinted, integer(7), wrap(GENERALIZED_TIME, stamp), accuracy, repeated
        )  # fmt: skip
        certificate = wrap(SEQUENCE, wrap(SEQUENCE, wrap(SEQUENCE, wrap(OCTETS, sha256(meant or self.der)))))
        attributes = [
            attribute("1.2.840.113549.1.9.3", content_type),
            attribute("1.2.840.113549.1.9.4", wrap(OCTETS, sha256(signed or info))),
            attribute("1.2.840.113549.1.9.16.2.47", certificate),
        ]
        body = b"".join(sorted(attributes))
        if isinstance(self.key, rsa.RSAPrivateKey):
            signature = self.key.sign(wrap(SET, body), PKCS1v15(), hashes.SHA256())
            signing = wrap(SEQUENCE, oid("1.2.840.113549.1.1.11"), wrap(NULL))
        else:
            signature = self.key.sign(wrap(SET, body), ec.ECDSA(hashes.SHA256()))
            signing = wrap(SEQUENCE, oid("1.2.840.10045.4.3.2"))
        issuer = self.certificate.issuer.public_bytes()
        sid = wrap(SEQUENCE, issuer, integer(self.certificate.serial_number))
        signer = wrap(SEQUENCE, integer(1), sid, SHA256, wrap(0xA0, body), signing, wrap(OCTETS, signature))
        bag = sorted([self.der] if certificates is None else certificates)
        content = wrap(SEQUENCE, TST_INFO, wrap(0xA0, wrap(OCTETS, info)))
        data = wrap(SEQUENCE, integer(3), wrap(SET, SHA256), content, wrap(0xA0, *bag), wrap(SET, signer * signers))
        return wrap(SEQUENCE, oid("1.2.840.113549.1.7.2"), wrap(0xA0, data))


class Root(Signer):
    """A certificate that signs itself, as anybody can make one."""

    def __init__(self, name: str, key: Key | None = None) -> None:
        key = key or ec.generate_private_key(ec.SECP256R1())
        basic = (x509.BasicConstraints(True, None), True)
        certificate = certify(name, key, name_of(name), key, [basic], (NOW - 1000 * DAY, NOW + 1000 * DAY), None)
        super().__init__(key, certificate)


def certify(
    name: str,
    key: Key,
    issuer: x509.Name,
    issuer_key: Key,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    valid: tuple[datetime.datetime, datetime.datetime],
    serial: int | None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def attribute(kind: str, value: bytes) -> bytes:
    return wrap(SEQUENCE, oid(kind), wrap(SET, value))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def accurate(seconds: int, millis: int = 0) -> bytes:
    return wrap(SEQUENCE, integer(seconds), wrap(0x80, integer(millis)[2:]) if millis else b"")


def granted(token: bytes, status: int = 0) -> bytes:
    """A TimeStampResp."""
    return wrap(SEQUENCE, wrap(SEQUENCE, integer(status)), token)


def receipt_of(token: bytes, nonce: int, certificates: Sequence[bytes] = ()) -> Receipt:
    """A receipt as anybody may write it."""
    body: dict[str, Any] = {
        "certificates": [base64.b64encode(der).decode() for der in certificates],
        "hash": "sha256",
        "nonce": f"{nonce:016x}",
        "token": base64.b64encode(token).decode(),
    }
    return Receipt("rfc3161", "final", body)


class OpensslTsa:
    """`openssl ts` with a certificate, answering requests in a folder of its own."""

    def __init__(self, signer: Signer, folder: Path, openssl: str = "openssl") -> None:
        folder.mkdir(parents=True)
        self.folder, self.openssl, self.lock = folder, openssl, threading.Lock()
        (folder / "tsa.pem").write_bytes(signer.certificate.public_bytes(Encoding.PEM))
        key = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "tsa.key").write_bytes(key)
        (folder / "tsa.cnf").write_text(CONFIG)
        (folder / "serial").write_text("01")

    def __call__(self, request: bytes) -> bytes:
        with self.lock:
            (self.folder / "query").write_bytes(request)
            command = [self.openssl, "ts", "-reply", "-config", "tsa.cnf", "-section", "tsa"]
            command += ["-queryfile", "query", "-out", "reply"]
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=20)
            return (self.folder / "reply").read_bytes()


Respond = Callable[[BaseHTTPRequestHandler, bytes], None]


def replying(make: Callable[[bytes], bytes], content_type: str = "application/timestamp-reply") -> Respond:
    """Answers each request's body with what `make` makes of it."""

    def respond(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        answer = make(body)
        handler.send_response(200)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    return respond


@contextlib.contextmanager
def serve(respond: Respond) -> Iterator[str]:
    """An HTTP server on a free loopback port; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with contextlib.suppress(ConnectionError):  # the client may have had enough
                respond(self, body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/tsa"
    finally:
        server.shutdown()
        server.server_close()
