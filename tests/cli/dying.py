"""A command line whose process is killed at a given moment of its sending; see tests/anchors/publisher.py."""

import os
import signal
from pathlib import Path
from typing import Any

from polchain.anchors import chain, journal
from polchain.cli.app import main
from polchain.prover.anchored import AnchorBook

MOMENTS = (
    "before it is written down",
    "before the send",
    "between send and record",
    "between record and receipt",
    "between two receipts",
)


def run_until(moment: str, *words: str) -> int:
    """Run it; unless that moment never comes, this process ends in it."""

    def die(when: str) -> None:
        if when == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    class Dying(chain.Chain):
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

    class DyingJournal(journal.Journal):
        def write(self, intent: journal.Intent) -> None:
            die("before it is written down")
            super().write(intent)

    put, written = AnchorBook.put, list[Path]()

    def dying_put(book: AnchorBook, *rest: Any) -> None:
        if written:
            die("between two receipts")
        put(book, *rest)
        written.append(book.run)

    chain.Chain = Dying  # type: ignore[misc]
    journal.Journal = DyingJournal  # type: ignore[misc]
    AnchorBook.put = dying_put  # type: ignore[method-assign]
    return main(words)
