"""Places where a head can be anchored, with the same handles: in memory, eth-tester in process, anvil on loopback."""

import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polchain.anchors.base import Anchor, Target
from polchain.anchors.chain import Chain
from polchain.anchors.contract import contract, event_data, event_topics
from polchain.anchors.deploy import deploy
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import Evidence
from polchain.anchors.journal import Journal
from polchain.anchors.memory import MemoryAnchor
from polchain.anchors.networks import Network
from polchain.anchors.sender import Sender
from polchain.anchors.wallet import Key, NodeAccount, Wallet

LOCAL = Network("local", 31337, finality=2, weak="a local chain")
EMBEDDED = Network("embedded", 131277322940537, finality=2, weak="a chain in this process")

# The first accounts of every anvil and of every eth-tester; their keys are public.
ANVIL_KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
ANVIL_ACCOUNT = bytes.fromhex("f39fd6e51aad88f6f4ce6ab8827279cfffb92266")
TESTER_KEY = (1).to_bytes(32, "big")


def target(name: str = "head", size: int = 7, log: str = "log") -> Target:
    root = hashlib.sha256(name.encode()).digest()
    return Target(hashlib.sha256(log.encode()).digest(), root, size, note=b"a signed head\n")


def batch(size: int = 32) -> Target:
    return Target(bytes(32), hashlib.sha256(b"batch").digest(), size)


class MemoryWorld:
    """The double."""

    def __init__(self) -> None:
        self.anchor = MemoryAnchor(finality=2)
        self.beside = self.anchor

    def mine(self, blocks: int = 1) -> None:
        self.anchor.mine(blocks)

    def vanish(self) -> None:
        self.anchor.reorganise(1)

    def stop(self) -> None:
        self.anchor.down = True

    def published(self, wanted: Target) -> int:
        return sum(wanted in block.targets for block in self.anchor._blocks)

    def another_process(self) -> Anchor:
        return self.anchor


class EthereumWorld:
    """What the two chains have in common. Blocks come when `mine` is called."""

    network: Network
    chain: Chain
    sender: Sender

    def __init__(self, folder: Path, chain: Chain, wallet: Wallet) -> None:
        self.folder = folder
        self.chain = chain
        self.sender = Sender(self.network, chain, wallet, Journal(folder / "journal"))
        deploy(self.sender, with_proxy=True, patience=5)
        self.anchor = EthereumAnchor(self.network, sender=self.sender)

    def another_process(self) -> Anchor:
        """The same account and journal, as a process that was started later has them."""
        sender = Sender(self.network, self.chain, self.sender.wallet, Journal(self.folder / "journal"))
        return EthereumAnchor(self.network, sender=sender)

    def published(self, wanted: Target) -> int:
        """How many events on the chain publish the target."""
        account = self.sender.wallet.address
        events = self.chain.ask("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest"})
        same = (f"0x{contract().address.hex()}", [f"0x{t.hex()}" for t in event_topics(account, wanted)])
        data = f"0x{event_data(wanted).hex()}"
        return sum((e["address"].lower(), list(e["topics"])) == same and e["data"] == data for e in events)

    def transactions(self) -> int:
        """How many transactions of the account are in the chain."""
        return self.chain.nonce(self.sender.wallet.address, "latest")

    def mine(self, blocks: int = 1) -> None:
        raise NotImplementedError


class EthTesterWorld(EthereumWorld):
    """eth-tester: py-evm in this process."""

    network = EMBEDDED

    def __init__(self, folder: Path) -> None:
        from web3 import EthereumTesterProvider

        provider = EthereumTesterProvider()
        self.tester: Any = provider.ethereum_tester
        super().__init__(folder, Chain(provider, "eth-tester"), Key(TESTER_KEY))
        self.tester.disable_auto_mine_transactions()
        self.snapshot = self.tester.take_snapshot()

    def mine(self, blocks: int = 1) -> None:
        self.tester.mine_blocks(blocks)

    def vanish(self) -> None:
        height = self.chain.height()
        self.tester.revert_to_snapshot(self.snapshot)
        self.tester.mine_blocks(height - self.chain.height() + 1)

    def stop(self) -> None:
        class Dead:
            def make_request(self, method: Any, params: Any) -> Any:
                raise ConnectionRefusedError("gone")

        provider = self.chain._web3.provider
        provider.make_request = Dead().make_request
        provider._request_func_cache = (None, None)


class Anvil:
    """A real node, the native binary, on a loopback port."""

    def __init__(self, binary: str, *words: str, port: int = 0) -> None:
        self.binary = binary
        self.words = words
        self.port = port or _free_port()
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [self.binary, "--port", str(self.port), "--host", "127.0.0.1", "--silent", *self.words]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"anvil did not start: {self.process.poll()}") from None
                time.sleep(0.02)

    def stop(self, how: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, how)
        self.process.wait(timeout=20)


class AnvilWorld(EthereumWorld):
    """anvil, whose account signs at the node or here."""

    network = LOCAL

    def __init__(self, folder: Path, node: Anvil, *, external: bool = False) -> None:
        self.node = node
        chain = Chain.connect(node.address)
        super().__init__(folder, chain, NodeAccount(chain, ANVIL_ACCOUNT) if external else Key(ANVIL_KEY))
        chain.ask("evm_setAutomine", False)

    def mine(self, blocks: int = 1) -> None:
        self.chain.ask("anvil_mine", hex(blocks))

    def vanish(self) -> None:
        self.chain.ask("anvil_reorg", 1, [])
        # A transaction may go back to the pool: here it is gone from there too.
        self.chain.ask("anvil_dropAllTransactions")

    def stop(self) -> None:
        self.node.stop()


class Interposed(Chain):
    """A node behind somebody who may change its answers."""

    def __init__(self, chain: Chain, name: str, changes: dict[str, Any]) -> None:
        self._chain = chain
        self._network = None
        self.name = name
        self.changes = changes

    def ask(self, method: str, *parameters: Any) -> Any:
        answer = self._chain.ask(method, *parameters)
        change = self.changes.get(method)
        return change(answer, *parameters) if change else answer


def inclusion_of(receipt: Any) -> Any:
    found = Evidence.read(receipt).inclusion
    assert found is not None
    return found


def names(reasons: Iterable[str]) -> str:
    return "; ".join(reasons)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
