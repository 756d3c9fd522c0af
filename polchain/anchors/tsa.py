"""A time-stamping authority (TSA), as a prover uses it or a verifier trusts it.

    Tsa("example", "https://tsa.example/", certificates=frozenset({Digest.parse("sha256:<hex>")}), policy="1.2.3.4.1")

Anybody can make a TSA, so a token is evidence only for whoever knew the authority beforehand. This is where he says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography import x509

from polchain.anchors.certificates import load
from polchain.anchors.transport import check_url
from polchain.core.digest import Digest
from polchain.errors import FormatError, UsageError

__all__ = ["MAX_MARGIN", "Tsa"]

MAX_MARGIN: Final = 86_400


@dataclass(frozen=True, slots=True)
class Tsa:
    """A time-stamping authority, as a prover uses it or a verifier trusts it.

    Attributes:
        name: in words, for messages and reports.
        url: where it answers; not needed to check.
        certificates: SHA-256 of its certificates (DER), any of which may have signed.
        roots: root certificates (DER), to one of which its certificate must lead. Where `certificates` is given
            too, both must hold; where neither is, nothing can be checked.
        policy: the policy OID that is asked for, and demanded; empty means any.
        margin: seconds that its clock may be off where a token does not say.
        chain: certificates (DER) to put beside its tokens: what it does not send itself.

    Raises:
        UsageError: a URL, an OID, a pin or a certificate that is not one.
    """

    name: str
    url: str = ""
    certificates: frozenset[Digest] = frozenset()
    roots: tuple[bytes, ...] = field(default=(), repr=False)
    policy: str = ""
    margin: int = 60
    chain: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.url:
            check_url(self.url)
        if self.policy and not _is_oid(self.policy):
            raise UsageError(f"TSA {self.name}: {self.policy!a} is not an OID")
        if any(pin.algorithm != "sha256" for pin in self.certificates):
            raise UsageError(f"TSA {self.name}: a certificate is pinned by its SHA-256")
        if not 0 <= self.margin <= MAX_MARGIN:
            raise UsageError(f"TSA {self.name}: a margin of {self.margin} s is not between 0 and a day")
        try:
            loaded = [load(der) for der in (*self.roots, *self.chain)]
        except FormatError as error:
            raise UsageError(f"TSA {self.name}: {error}") from error
        if any(root.issuer != root.subject for root in loaded[: len(self.roots)]):
            raise UsageError(f"TSA {self.name}: a root is a certificate that was issued by nobody else")


def _is_oid(text: str) -> bool:
    try:
        return x509.ObjectIdentifier(text).dotted_string == text
    except ValueError:
        return False
