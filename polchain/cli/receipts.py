"""Receipts of anchored heads, for people and for programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from polchain.cli import output

if TYPE_CHECKING:
    from polchain.prover.anchorlog import Published

__all__ = ["published_json", "published_rows"]

STATUS = {"final": "final", "pending": "pending: in a block that is not final yet"}


def published_json(one: Published) -> dict[str, Any]:
    """A receipt as an object; what a pending one does not have yet is null."""
    said: dict[str, Any] = {
        "run": str(one.run),
        "size": one.size,
        "root": f"sha256:{one.root.hex()}",
        "source": one.source,
        "status": one.receipt.status,
    }
    return said | (_ethereum(one) if one.receipt.kind == "ethereum" else _tsa(one))


def published_rows(one: Published) -> list[tuple[str, object]]:
    """A receipt as names and values."""
    said = published_json(one)
    rows: list[tuple[str, object]] = [
        ("run", one.run),
        ("anchored", f"{output.count(one.size, 'entry')}, {said['root']}"),
        ("source", _in_words(one, said)),
    ]
    if one.receipt.kind != "ethereum":
        rows += [("time", _utc(said["time"])), ("certificate", f"{said['certificate']}; the verifier pins it")]
        return rows
    status = STATUS[one.receipt.status] if said["block"] is not None else "pending: in no block yet"
    rows += [("status", status), ("transaction", said["transaction"])]
    if said["explorer"]:
        rows.append(("page", said["explorer"]))
    if said["block"] is not None:
        rows.append(("block", f"{said['block']}, {_utc(said['time'])}"))
    rows.append(("cost", f"at most {int(said['at_most']) / 1e18:.3g} ether, from {said['account']}"))
    return rows


def _in_words(one: Published, said: dict[str, Any]) -> str:
    if one.receipt.kind != "ethereum":
        return f"time-stamping authority {said['tsa']}"
    if one.batch is None:
        return f"{said['network']}, alone"
    return f"{said['network']}, in a batch of {output.count(one.batch.count, 'head')}"


def _ethereum(one: Published) -> dict[str, Any]:
    from polchain.anchors.evidence import Evidence
    from polchain.anchors.inclusion import check_header
    from polchain.anchors.networks import networks
    from polchain.anchors.transaction import open_transaction

    evidence = Evidence.read(one.receipt)
    signed = open_transaction(evidence.transaction)
    known = [network for network in networks().values() if network.chain_id == evidence.chain_id]
    header = None
    if evidence.inclusion is not None:
        header = check_header(evidence.inclusion.header, evidence.inclusion.block)
    return {
        "network": known[0].name if known else evidence.network,
        "chain": evidence.chain_id,
        "account": f"0x{evidence.prover.hex()}",
        "transaction": f"0x{signed.hash.hex()}",
        "explorer": (known[0].page(signed.hash) if known else "") or None,
        "block": header.number if header is not None else None,
        "block_hash": f"0x{header.hash.hex()}" if header is not None else None,
        "time": header.time if header is not None else None,
        "at_most": str(signed.gas * signed.max_fee + signed.value),
        "batch": {"index": one.batch.index, "count": one.batch.count} if one.batch is not None else None,
    }


def _tsa(one: Published) -> dict[str, Any]:
    from polchain.anchors.base import Target
    from polchain.anchors.stamp import read_stamp
    from polchain.core.claim import head_name

    note = (one.run / head_name(one.size)).read_bytes()
    stamp = read_stamp(one.receipt.body, Target(b"", one.root, one.size, note))
    return {
        "tsa": one.source.removeprefix("rfc3161-"),
        "time": int(stamp.time.timestamp()),
        "certificate": str(stamp.fingerprint),
    }


def _utc(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):
        # A block's time is a number of 64 bits, and whoever makes a chain chooses it.
        return f"{seconds} s after 1970, which no calendar has"
