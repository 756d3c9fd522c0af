"""Gas of an anchor, measured on an embedded chain, beside what others charge for a date on Ethereum.

    python -m benchmarks.gas

EAS is the Ethereum Attestation Service 1.4: `timestamp(bytes32)` stores a date for a digest, `attest` a record. Their
figures were measured once on anvil, with the contracts as they are published; they are not run here.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import machine, write
from polchain.anchors.base import Target
from polchain.anchors.chain import Chain
from polchain.anchors.deploy import deploy
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import Evidence
from polchain.anchors.inclusion import quantity
from polchain.anchors.journal import Journal
from polchain.anchors.networks import named
from polchain.anchors.receipts import FiledReceipt
from polchain.anchors.rfc3161 import Rfc3161Anchor
from polchain.anchors.sender import Sender
from polchain.anchors.tsa import Tsa
from polchain.anchors.wallet import Key

BATCH = 32
HEAD_LIMIT, LOG_LIMIT = 25_000, 1_000
EAS = {"EAS timestamp": 45_864, "EAS attest": 202_128}


@dataclass(frozen=True, slots=True)
class Row:
    """What one transaction took, and for how many logs."""

    what: str
    gas: int
    logs: int
    evidence: int = 0  # bytes of the receipt once it is final; none for what was not run here

    @property
    def per_log(self) -> int:
        """Rounded up."""
        return -(-self.gas // self.logs)


def measure(folder: Path) -> list[Row]:
    """Deploy the contract on a new chain, and anchor one head and one batch on it."""
    from web3 import EthereumTesterProvider

    network, provider = named("embedded"), EthereumTesterProvider()
    chain = Chain(provider, "eth-tester")
    sender = Sender(network, chain, Key((1).to_bytes(32, "big")), Journal(folder))
    deploy(sender, with_proxy=True)
    anchor = EthereumAnchor(network, sender=sender)

    def row(what: str, target: Target, logs: int) -> Row:
        pending = anchor.submit(target)
        done = chain.receipt(Evidence.read(pending).hash)
        assert done is not None
        provider.ethereum_tester.mine_blocks(70)
        final = anchor.upgrade(pending, target)
        assert final.status == "final", final.status
        return Row(what, quantity(done["gasUsed"]), logs, len(FiledReceipt(1, final).encode()))

    # Digests without a zero byte: calldata is dearest then.
    log, root = (bytes(byte or 1 for byte in hashlib.sha256(text).digest()) for text in (b"log", b"root"))
    head, batch = Target(log, root, 2**63 - 1), Target(bytes(32), root, BATCH)
    return [
        row("polchain, one head", head, 1),
        row(f"polchain, batch of {BATCH}", batch, BATCH),
        *(Row(name, gas, 1) for name, gas in EAS.items()),
    ]


def token() -> int:
    """Bytes of a receipt by a time-stamping authority on loopback: a signer under one root."""
    from tests.stamping import stamping

    with stamping() as authority:
        target = Target(bytes(32), bytes(32), 1, b"note")
        receipt = Rfc3161Anchor(Tsa("local", authority.url)).submit(target)
    return len(FiledReceipt(1, receipt).encode())


def table(rows: list[Row]) -> str:
    """The rows, for people."""
    lines = [f"{'gas':<24}{'transaction':>12}{'per log':>10}"]
    lines += [f"{row.what:<24}{row.gas:>12,}{row.per_log:>10,}" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    rows.append(Row("RFC 3161, one head", 0, 1, token()))
    write("gas", [asdict(row) | {"per_log": row.per_log} for row in rows], machine())
    print(table(rows))


if __name__ == "__main__":
    main()
