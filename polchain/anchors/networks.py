"""Ethereum networks by name: `networks.toml` beside this module, and the user's own file over it.

[sepolia]
chain_id = 11155111
genesis = "0x25a5cc10..."        the hash of block 0; none for a chain that each has for himself
finality = "finalized"           or a number of blocks on top
evidence = "weak"                or "strong"
why = "a testnet"                why it is weak
beacon = true                    nobody chooses its block hashes
explorer = "https://sepolia.etherscan.io/tx/{transaction}"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_config_path

from polchain.errors import PolicyError, UsageError

__all__ = ["Network", "named", "networks", "user_file"]

BUILT_IN = Path(__file__).with_name("networks.toml")
FIELDS = {"chain_id", "genesis", "finality", "evidence", "why", "beacon", "explorer"}


@dataclass(frozen=True, slots=True)
class Network:
    """A chain that heads are published on.

    Attributes:
        name: what it is called here and in receipts.
        chain_id: what tells it from other chains (EIP-155).
        genesis: the hash of block 0; None where that is not fixed.
        finality: how many blocks on top make a block final, or the node's own word for it.
        weak: why its evidence counts for less; empty where it is strong.
        beacon: whether its block hashes are beyond the prover's power.
        explorer: a page about a transaction; `{transaction}` stands for its hash.
    """

    name: str
    chain_id: int
    genesis: bytes | None = None
    finality: int | Literal["finalized"] = "finalized"
    weak: str = ""
    beacon: bool = False
    explorer: str = ""

    def page(self, transaction: bytes) -> str:
        """Where a person looks the transaction up; empty if nowhere."""
        return self.explorer.replace("{transaction}", f"0x{transaction.hex()}")


def user_file() -> Path:
    """The user's own networks."""
    return user_config_path("polchain") / "networks.toml"


def networks(extra: Path | None = None) -> dict[str, Network]:
    """The built-in networks, with those of the user's file (or of `extra`) over them.

    Raises:
        PolicyError: a file that cannot be read, or says something else than a network.
    """
    known = _read(BUILT_IN)
    path = extra or user_file()
    if extra is not None or path.exists():
        known.update(_read(path))
    return known


def named(name: str, extra: Path | None = None) -> Network:
    """The network of that name.

    Raises:
        UsageError: there is none.
        PolicyError: the user's file cannot be read.
    """
    known = networks(extra)
    if name not in known:
        raise UsageError(
            f"no network is called {name!r}", hint=f"one of {', '.join(known)}; yours go into {user_file()}"
        )
    return known[name]


def _read(path: Path) -> dict[str, Network]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"the networks in {path} cannot be read: {error}") from error
    try:
        return {name: _network(name, table) for name, table in tables.items()}
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None


def _network(name: str, table: Any) -> Network:
    if not isinstance(table, Mapping):
        raise PolicyError(f"[{name}] is not a table")
    unknown = sorted(set(table) - FIELDS)
    if unknown:
        raise PolicyError(f"[{name}]: unknown field {unknown[0]!r}", hint=f"one of {', '.join(sorted(FIELDS))}")
    chain_id = table.get("chain_id")
    if type(chain_id) is not int or not 0 < chain_id < 2**53:
        raise PolicyError(f"[{name}]: chain_id is a number from 1 to 2^53 - 1")
    finality = table.get("finality", "finalized")
    if finality != "finalized" and not (type(finality) is int and 0 <= finality <= 1_000_000):
        raise PolicyError(f'[{name}]: finality is "finalized" or a number of blocks')
    evidence, why = table.get("evidence"), table.get("why", "")
    if evidence not in ("strong", "weak") or type(why) is not str or (evidence == "weak") != bool(why):
        raise PolicyError(f'[{name}]: evidence is "strong", or "weak" with a reason in why')
    beacon, explorer = table.get("beacon", False), table.get("explorer", "")
    if type(beacon) is not bool or type(explorer) is not str:
        raise PolicyError(f"[{name}]: beacon is true or false, explorer is an address")
    return Network(name, chain_id, _genesis(name, table.get("genesis")), finality, why, beacon, explorer)


def _genesis(name: str, text: Any) -> bytes | None:
    if text is None:
        return None
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except (AttributeError, ValueError):
        value = b""
    if len(value) != 32:
        raise PolicyError(f"[{name}]: genesis is 32 bytes in hexadecimal, with 0x before them")
    return value
