"""What is loaded: a verifier without a node loads no web3."""

import subprocess
import sys

MODULES = "base chain contract deploy ethereum evidence inclusion journal memory networks sender transaction wallet"

CHECK = f"""
import sys
from importlib import import_module
for name in {MODULES.split()!r}:
    import_module(f"polchain.anchors.{{name}}")
early = {{"web3", "rlp", "trie", "eth_account", "eth_keys", "torch"}} & set(sys.modules)
assert not early, early
from polchain.anchors.contract import contract
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.evidence import Evidence
from polchain.anchors.networks import named
from polchain.anchors.base import Target
from polchain.errors import AnchorError
known = contract()
local = named("local")
evidence = Evidence(local.chain_id, "local", known.address, known.code_hash, bytes(20), b"\\x02\\xc0")
try:
    EthereumAnchor(local).check(evidence.receipt("final"), Target(bytes(32), bytes(32), 1))
except AnchorError:
    pass
late = {{"web3", "torch", "eth_account"}} & set(sys.modules)
assert not late, late
"""


def test_checking_offline_loads_no_web3() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
