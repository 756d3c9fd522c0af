"""Whose time this verifier believes, as a policy's TOML says it:

    [[network]]                          a chain that is asked, or of which blocks are known
    name = "sepolia"                     from the networks by name
    rpc = ["https://...", "https://..."] nodes; every one must agree; two or more recommended
    blocks = ["0x<64 hex>"]              hashes of blocks, known from elsewhere to be of the chain and final

    [[tsa]]                              a time-stamping authority (RFC 3161)
    name = "example"                     as reports call it
    certificates = ["sha256:<hex>"]      its certificates, any of which may sign
    roots = ["root.pem"]                 files, PEM or DER, from the policy's folder; a certificate must lead to one
    policy = "1.2.3.4.1"                 the OID that is demanded
    margin = 60                          seconds that its clock may be off where a token does not say

Whoever is not named here vouches for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from polchain.anchors.networks import Network, named
from polchain.anchors.tsa import Tsa
from polchain.core.digest import Digest
from polchain.errors import PolicyError, UsageError

__all__ = ["Sources", "TrustedNetwork", "parse_block_hash", "read_certificates"]

CERTIFICATES_LIMIT: Final = 256 * 1024

_BLOCK: Final = re.compile(r"0x([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class TrustedNetwork:
    """A chain, who is asked about it, and what is known of it already.

    Attributes:
        network: which.
        rpc: addresses of nodes.
        blocks: hashes of blocks that are of this chain and final.

    Raises:
        UsageError: an address that is none.
    """

    network: Network
    rpc: tuple[str, ...] = ()
    blocks: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        _check_addresses(self.rpc)


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of time that a verifier trusts.

    Attributes:
        networks: the chains by name.
        tsas: the time-stamping authorities.
        rpc: nodes of a chain that nobody named: the one that the claim's receipts are of.
        blocks: pinned hashes of blocks of a chain that nobody named.

    Raises:
        UsageError: one chain twice, or an address that is none.
    """

    networks: tuple[TrustedNetwork, ...] = ()
    tsas: tuple[Tsa, ...] = ()
    rpc: tuple[str, ...] = ()
    blocks: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        _check_addresses(self.rpc)
        chains = [one.network.chain_id for one in self.networks]
        for chain in chains:
            if chains.count(chain) > 1:
                raise UsageError(f"two networks are chain {chain}: its receipts can be of one only")

    def of(self, chain_id: int) -> TrustedNetwork | None:
        """What is trusted of a chain; None if it is not listed."""
        return next((one for one in self.networks if one.network.chain_id == chain_id), None)

    def plus(
        self,
        network: Network | None = None,
        rpc: Sequence[str] = (),
        blocks: Sequence[bytes] = (),
        tsas: Sequence[Tsa] = (),
    ) -> Sources:
        """These and more; nodes and blocks are of the network, where one is named.

        Raises:
            UsageError: another network of the same chain is listed, or an address is none.
        """
        more = replace(self, tsas=(*self.tsas, *tsas))
        if network is None:
            return replace(more, rpc=(*self.rpc, *rpc), blocks=self.blocks | set(blocks))
        found = next((one for one in self.networks if one.network == network), TrustedNetwork(network))
        extended = replace(found, rpc=tuple(dict.fromkeys((*found.rpc, *rpc))), blocks=found.blocks | set(blocks))
        return replace(more, networks=(*(one for one in self.networks if one != found), extended))

    @classmethod
    def parse(cls, values: Mapping[str, object], folder: Path) -> Sources:
        """Read the tables `network` and `tsa` of a policy; paths are from `folder`.

        Raises:
            PolicyError: an unknown name, or a value of the wrong kind.
            UsageError, FormatError: a network, an address, a digest or a certificate that is none.
        """
        return cls(
            tuple(_network(table) for table in _tables(values, "network", {"name", "rpc", "blocks"})),
            tuple(
                _tsa(table, folder)
                for table in _tables(values, "tsa", {"name", "certificates", "roots", "policy", "margin"})
            ),
        )


def parse_block_hash(text: str) -> bytes:
    """A block's hash.

    Raises:
        UsageError: not 0x and 64 hexadecimal digits.
    """
    match = _BLOCK.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:80]!a} is no block's hash", hint="0x and 64 hexadecimal digits")
    return bytes.fromhex(match[1])


def read_certificates(path: Path) -> tuple[bytes, ...]:
    """The certificates of a file, PEM or DER, as DER.

    Raises:
        UsageError: the file cannot be read, is too large, or holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CERTIFICATES_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"cannot read the certificate {path}: {error.strerror}") from error
    if len(data) > CERTIFICATES_LIMIT:
        raise UsageError(f"{path} is over {CERTIFICATES_LIMIT} bytes")
    try:
        if b"-----BEGIN CERTIFICATE-----" in data:
            return tuple(one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(data))
        return (x509.load_der_x509_certificate(data).public_bytes(Encoding.DER),)
    except ValueError as error:
        raise UsageError(f"{path} holds no certificate, PEM or DER") from error


def _network(table: Mapping[str, object]) -> TrustedNetwork:
    rpc = tuple(_texts(table, "rpc"))
    return TrustedNetwork(
        named(_text(table, "name")), rpc, frozenset(parse_block_hash(text) for text in _texts(table, "blocks"))
    )


def _tsa(table: Mapping[str, object], folder: Path) -> Tsa:
    name = _text(table, "name")
    margin = table.get("margin", Tsa(name).margin)
    if type(margin) is not int:
        raise PolicyError(f"TSA {name}: margin is a whole number of seconds")
    tsa = Tsa(
        name,
        certificates=frozenset(Digest.parse(text) for text in _texts(table, "certificates")),
        roots=tuple(der for text in _texts(table, "roots") for der in read_certificates(folder / text)),
        policy=_text(table, "policy", ""),
        margin=margin,
    )
    if not tsa.certificates and not tsa.roots:
        raise PolicyError(f"TSA {name}: neither certificates nor roots: its tokens could not be told from anybody's")
    return tsa


def _tables(values: Mapping[str, object], kind: str, known: set[str]) -> list[Mapping[str, object]]:
    tables = values.get(kind, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise PolicyError(f"{kind} is a list of tables, each under [[{kind}]]")
    for table in tables:
        for name in table:
            if name not in known:
                raise PolicyError(f"[[{kind}]]: unknown name {name!r}", hint=f"known: {', '.join(sorted(known))}")
    return tables


def _text(table: Mapping[str, object], name: str, default: str | None = None) -> str:
    value = table.get(name, default)
    if not isinstance(value, str) or (default is None and not value):
        raise PolicyError(f"{name} is a string" + (", and must be there" if default is None else ""))
    return value


def _texts(table: Mapping[str, object], name: str) -> list[str]:
    items = table.get(name, [])
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise PolicyError(f"{name} is a list of strings")
    return items


def _check_addresses(addresses: Sequence[str]) -> None:
    """Refuse at once what could not be asked; no address is repeated, because its path may hold a key."""
    for address in addresses:
        try:
            parts = urlsplit(address)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise UsageError("a node's address cannot be read", hint="http://, https://, or a socket's path") from None
        if not (host if parts.scheme in ("http", "https") else address and not parts.scheme):
            raise UsageError(
                f"a node at {parts.scheme[:20] or 'nowhere'}: is not understood",
                hint="http://, https://, or a socket's path",
            )
