"""One node, asked by JSON-RPC: web3 carries the question, the answer is read here.

A node is believed in nothing. What it says wrong in form is an AnchorUnavailableError; what it says wrong in fact is
found by the proofs (`inclusion`), or by asking another. Messages name the host alone: a path may hold an account's key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

from polchain.anchors.contract import keccak256
from polchain.anchors.inclusion import quantity, raw_bytes
from polchain.anchors.networks import Network
from polchain.errors import AnchorUnavailableError, UsageError

__all__ = ["Chain", "NonceTakenError", "RefusedError"]

TIMEOUT = 20
T = TypeVar("T")

# What nodes say (geth, reth, erigon, nethermind, anvil, eth-tester), in lower case.
KNOWN = ("already known", "known transaction", "already imported", "alreadyknown")
TAKEN = ("nonce too low", "nonce is too low", "invalid transaction nonce", "underpriced", "oldnonce")


class RefusedError(AnchorUnavailableError):
    """The node answered, and the answer was no."""


class NonceTakenError(RefusedError):
    """The node has, or had, another transaction with this nonce."""


class Chain:
    """A node of some network.

    Attributes:
        name: the node, for messages: its host, or what the caller says.
    """

    def __init__(self, provider: Any, name: str) -> None:
        from web3 import Web3

        self.name = name
        # Without middleware: what checks and rewrites answers here would reject the headers of other chains.
        self._web3 = Web3(provider, middleware=[])
        self._network: Network | None = None

    @classmethod
    def connect(cls, address: str) -> Chain:
        """A node by its address: http://, https://, or the path of its socket. Nothing is asked yet.

        Raises:
            UsageError: another kind of address.
        """
        from web3 import IPCProvider

        from polchain.anchors.provider import HttpProvider

        try:
            parts = urlsplit(address)
            _ = parts.port
        except ValueError:
            raise UsageError(
                "a node's address that is not understood", hint="is its host or its port mistyped?"
            ) from None
        if parts.scheme in ("http", "https") and parts.hostname:
            return cls(HttpProvider(address), parts.hostname + (f":{parts.port}" if parts.port else ""))
        if not parts.scheme and address:
            return cls(IPCProvider(address, timeout=TIMEOUT), address)
        raise UsageError(
            f"a node at {parts.scheme or 'nowhere'}: is not understood", hint="http://, https://, or a socket's path"
        )

    def expect(self, network: Network) -> None:
        """Check that the node is one of that network.

        Raises:
            AnchorUnavailableError: it is of another chain, or cannot be reached.
        """
        if self._network == network:
            return
        found = self._read("eth_chainId", quantity)
        if found != network.chain_id:
            raise AnchorUnavailableError(
                f"wrong chain: {self.name} is chain {found}, {network.name} is {network.chain_id}"
            )
        if network.genesis is not None:
            block = self.block(0)
            if block is None or _hash(block) != network.genesis:
                raise AnchorUnavailableError(f"wrong chain: {self.name} does not begin as {network.name} does")
        self._network = network

    def block(self, which: int | str | bytes) -> Mapping[str, Any] | None:
        """A block without its transactions' bodies, by number, tag or hash; None if the node has no such block."""
        if isinstance(which, bytes):
            return self._read("eth_getBlockByHash", _mapping_or_none, f"0x{which.hex()}", False, missing=True)
        return self._read("eth_getBlockByNumber", _mapping_or_none, _name(which), False, missing=True)

    def block_hash(self, number: int) -> bytes | None:
        """The hash of the block that has this number on the node's chain."""
        block = self.block(number)
        return None if block is None else _hash(block)

    def height(self) -> int:
        """The number of the newest block."""
        return self._height_of("latest") or 0

    def final_height(self, network: Network) -> int:
        """The number of the newest block that the network's rule calls final; -1 if there is none yet."""
        if network.finality == "finalized":
            number = self._height_of("finalized")
            return -1 if number is None else number
        return self.height() - network.finality

    def receipt(self, transaction: bytes) -> Mapping[str, Any] | None:
        """The receipt of a transaction; None if it is in no block."""
        return self._read("eth_getTransactionReceipt", _mapping_or_none, f"0x{transaction.hex()}", missing=True)

    def knows(self, transaction: bytes) -> bool:
        """Whether the node has the transaction, in a block or waiting."""
        found = self._read("eth_getTransactionByHash", _mapping_or_none, f"0x{transaction.hex()}", missing=True)
        return found is not None or self.receipt(transaction) is not None

    def receipts(self, block: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The receipts of a block, in order: in one call, or one by one where the node has no such call."""
        try:
            found = self._read("eth_getBlockReceipts", _mappings, f"0x{_hash(block).hex()}")
        except RefusedError:
            found = []
        hashes = self._parsed(lambda of: [raw_bytes(one) for one in of["transactions"]], block, "eth_getBlockByHash")
        given = self._parsed(
            lambda of: [raw_bytes(one.get("transactionHash", "0x")) for one in of], found, "eth_getBlockReceipts"
        )
        if given == hashes:
            return found
        return [self._read("eth_getTransactionReceipt", _mapping, f"0x{one.hex()}") for one in hashes]

    def nonce(self, account: bytes, at: int | str) -> int:
        """How many transactions the account has sent, by a block's number or tag."""
        return self._read("eth_getTransactionCount", quantity, _address(account), _name(at))

    def balance(self, account: bytes) -> int:
        """What the account has, in wei."""
        return self._read("eth_getBalance", quantity, _address(account), "latest")

    def code_hash(self, account: bytes) -> bytes | None:
        """keccak256 of the code at an address; None if there is none."""
        code = self._read("eth_getCode", raw_bytes, _address(account), "latest")
        return keccak256(code) if code else None

    def fees(self) -> tuple[int, int]:
        """Base fee of the newest block, and the tip that the node suggests, in wei (EIP-1559).

        Raises:
            AnchorUnavailableError: a chain without base fees.
        """
        block = self.block("latest") or {}
        if "baseFeePerGas" not in block:
            raise AnchorUnavailableError(f"{self.name}: this chain has no base fee (EIP-1559)")
        base = self._parsed(quantity, block["baseFeePerGas"], "eth_getBlockByNumber")
        try:
            return base, self._read("eth_maxPriorityFeePerGas", quantity)
        except RefusedError:
            return base, 10**9

    def estimate(self, sender: bytes, to: bytes, data: bytes) -> int:
        """How much gas a call takes."""
        call = {"from": _address(sender), "to": _address(to), "data": f"0x{data.hex()}"}
        return self._read("eth_estimateGas", quantity, call)

    def send(self, raw: bytes) -> None:
        """Hand over a signed transaction; one that the node has already is handed over.

        Raises:
            NonceTakenError: another transaction has its nonce.
            RefusedError: the node says no.
            AnchorUnavailableError: the node cannot be reached; it may have the transaction all the same.
        """
        try:
            self.ask("eth_sendRawTransaction", f"0x{raw.hex()}")
        except RefusedError as error:
            said = str(error).lower()
            if any(words in said for words in KNOWN):
                return
            if any(words in said for words in TAKEN):
                raise NonceTakenError(str(error), hint=error.hint) from error
            raise

    def ask(self, method: str, *parameters: Any) -> Any:
        """What the node answers, as it is.

        Raises:
            RefusedError: it answered with an error.
            AnchorUnavailableError: it did not answer.
        """
        from web3.exceptions import Web3RPCError
        from web3.types import RPCEndpoint

        try:
            return self._web3.manager.request_blocking(RPCEndpoint(method), list(parameters))
        except Web3RPCError as error:
            response = error.rpc_response or {}
            problem = response.get("error")
            said = problem.get("message") if isinstance(problem, Mapping) else problem
            raise RefusedError(f"{self.name} refuses {method}: {_line(said or error.message)}") from error
        except OSError as error:
            raise AnchorUnavailableError(
                f"{self.name} cannot be reached ({_why(error)})", hint="is the node up, and its address right?"
            ) from error
        # Providers raise what they like: eth-tester its own errors, a garbled answer anything at all.
        except Exception as error:
            raise RefusedError(f"{self.name} refuses {method}: {_line(error)}") from error

    def _height_of(self, tag: str) -> int | None:
        try:
            block = self.block(tag)
        except RefusedError:
            return None
        return None if block is None else self._parsed(quantity, block.get("number"), "eth_getBlockByNumber")

    def _read(self, method: str, read: Callable[[Any], T], *parameters: Any, missing: bool = False) -> T:
        try:
            answer = self.ask(method, *parameters)
        except RefusedError as error:
            # Some nodes have an error where others have null.
            if missing and "not found" in str(error).lower():
                return read(None)
            raise
        return self._parsed(read, answer, method)

    def _parsed(self, read: Callable[[Any], T], answer: Any, method: str) -> T:
        try:
            return read(answer)
        except (KeyError, TypeError, ValueError) as error:
            raise RefusedError(f"{self.name} answers {method} with nonsense") from error


def _hash(block: Mapping[str, Any]) -> bytes:
    try:
        return raw_bytes(block["hash"])
    except (KeyError, ValueError) as error:
        raise AnchorUnavailableError("the node's answer is a block without a hash") from error


def _mapping_or_none(value: Any) -> Mapping[str, Any] | None:
    return None if value is None else _mapping(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("not an object")
    return value


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise ValueError("not an array")
    return [_mapping(item) for item in value]


def _why(error: OSError) -> str:
    """In few words, and none of a library's: these may hold the address."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code}"
    if type(error) in (TimeoutError, ConnectionError) and error.__cause__ is None and error.args:
        return _line(error.args[-1])
    return type(error.__cause__ or error).__name__


def _name(block: int | str) -> str:
    return hex(block) if isinstance(block, int) else block


def _address(account: bytes) -> str:
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(account))


def _line(said: object) -> str:
    return " ".join(str(said).split())[:300]
