"""Publishes heads, and may be told to kill its process on the way."""

import os
import signal
from pathlib import Path
from typing import Any

from polchain.anchors.chain import Chain
from polchain.anchors.ethereum import EthereumAnchor
from polchain.anchors.journal import Intent, Journal
from polchain.anchors.sender import Sender
from polchain.anchors.wallet import Key
from tests.anchors.worlds import ANVIL_KEY, LOCAL, target

MOMENTS = ("before it is written down", "before the send", "between send and record", "between record and receipt")


def main(node: str, folder: str, moment: str, *heads: str) -> None:
    def die(when: str) -> None:
        if when == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    class Dying(Chain):
        sent = False

        def send(self, raw: bytes) -> None:
            die("before the send")
            super().send(raw)
            die("between send and record")
            self.sent = True

        def receipt(self, transaction: bytes) -> Any:
            if self.sent:
                die("between record and receipt")
            return super().receipt(transaction)

    class DyingJournal(Journal):
        def write(self, intent: Intent) -> None:
            die("before it is written down")
            super().write(intent)

    chain = Dying.connect(node)
    anchor = EthereumAnchor(LOCAL, sender=Sender(LOCAL, chain, Key(ANVIL_KEY), DyingJournal(Path(folder))))
    for head in heads:
        anchor.submit(target(head))
