"""A run as anchoring sees it: the heads of its log, and the receipts that they have.

The ledger is only read, so whoever trains is not disturbed; of other processes that anchor, the run is held. A ledger
that does not hold a head which was published is older than that head, and nothing of it is published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from polchain.anchors.base import Receipt, Target, target_of
from polchain.anchors.batch import Membership
from polchain.anchors.networks import Network
from polchain.anchors.receipts import FiledReceipt
from polchain.core.genesis import Genesis
from polchain.errors import AnchorError, MissingFileError, RolledBackError, UsageError
from polchain.prover.anchored import AnchorBook, Kept
from polchain.storage.database import DATABASE
from polchain.storage.ledger import Ledger
from polchain.storage.runs import no_run

if TYPE_CHECKING:
    from polchain.anchors.ethereum import EthereumAnchor

__all__ = [
    "AnchorLog",
    "Published",
    "bring_up",
    "different",
    "opened",
    "read_log",
    "source_of",
    "source_of_tsa",
    "stands",
]


@dataclass(frozen=True, slots=True)
class Published:
    """A head of a run, and its receipt from one source.

    Attributes:
        size: how many entries the head has.
        source: as in the receipt's name: ethereum-<chain id>, ethereum-<chain id>-batch, rfc3161-<name>.
        batch: how the head belongs to the batch that was published, where it was published in one.
        root: the head's.
    """

    run: Path
    size: int
    source: str
    receipt: Receipt
    batch: Membership | None
    root: bytes

    @property
    def final(self) -> bool:
        """Whether the source calls it final."""
        return self.receipt.status == "final"


@dataclass(frozen=True, slots=True)
class AnchorLog:
    """What anchoring knows of a run, as its ledger was when it was read.

    Attributes:
        newest: the size of the newest head.
        targets: as what is published, that head and every other that was published or is about to be.
    """

    run: Path
    book: AnchorBook
    genesis: Genesis
    newest: int
    targets: dict[int, Target]

    @property
    def note(self) -> bytes:
        """The newest head, signed."""
        return self.targets[self.newest].note

    def published(self, source: str, filed: FiledReceipt) -> Published:
        """A receipt of this run."""
        root = self.targets[filed.head_size].root
        return Published(self.run, filed.head_size, source, filed.receipt, filed.batch, root)

    def need_account(self, anchor: EthereumAnchor) -> None:
        """Check that a single head goes out from the account that the genesis is bound to, if it is to one.

        Raises:
            UsageError: it would go out from another.
        """
        bound = self.genesis.ethereum
        if bound is None or anchor.sender is None or anchor.sender.wallet.address == bound.address:
            return
        raise UsageError(
            f"{self.run} is bound to the account 0x{bound.address.hex()}, and this is"
            f" 0x{anchor.sender.wallet.address.hex()}",
            hint="publish from the bound account; in a batch with other runs any account will do",
        )


def source_of(network: Network, *, batch: bool = False) -> str:
    """How the receipts of a network are named."""
    return f"ethereum-{network.chain_id}" + ("-batch" if batch else "")


def source_of_tsa(name: str) -> str:
    """How the receipts of a time-stamping authority are named: `rfc3161-` and its name in lower case, hyphenated.

    Raises:
        UsageError: a name without a letter or digit.
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    if not words:
        raise UsageError(f"a time-stamping authority called {name!a} leaves no name for its receipts")
    return f"rfc3161-{'-'.join(words)}"


def different(runs: Sequence[Path]) -> list[Path]:
    """Each run once, in their order.

    Raises:
        UsageError: there is none.
    """
    found: dict[Path, Path] = {}
    for run in runs:
        found.setdefault(run.resolve(), run)
    if not found:
        raise UsageError("no run was named")
    return list(found.values())


@contextmanager
def opened(runs: Sequence[Path], *sizes: int) -> Iterator[list[AnchorLog]]:
    """Hold the different ones of these runs against other anchoring, and read them; `sizes` as for `read_log`.

    Raises:
        RunLockedError: another process is anchoring one of them.
        And what `read_log` raises.
    """
    found = different(runs)
    with ExitStack() as held:
        for run in found:
            if not (run / DATABASE).exists():
                raise no_run(run)
            held.enter_context(AnchorBook(run).locked())
        yield [read_log(run, *sizes) for run in found]


def read_log(run: Path, *sizes: int) -> AnchorLog:
    """Read a run's newest head, the published ones, and those of these sizes.

    Raises:
        MissingFileError: there is no run, or it never had a head of such a size.
        RolledBackError: its ledger is older than a head that was published.
        FormatError, ChainError, SignatureError: its ledger or a receipt is damaged.
    """
    book = AnchorBook(run)
    # Before the ledger, which may grow meanwhile: it must hold these.
    heads, stamped = book.heads(), {size for size, _, _ in book.names()}
    with Ledger(run) as ledger:
        genesis, newest, origin, keys = ledger.genesis, ledger.size, ledger.origin, ledger.keys
        notes = {size: ledger.head(size) for size in sorted({newest, *sizes, *heads, *stamped})}
    for size in sizes:
        if not notes[size]:
            raise MissingFileError(f"{run} has no head of {size} entries", hint=f"it has heads of 1 to {newest}")
    for size in sorted({*heads, *stamped}):
        if not notes[size] or heads.get(size, notes[size]) != notes[size]:
            raise RolledBackError(
                f"a head of {size} entries was published that the ledger at {run} does not hold",
                hint="it was put back to an older state, or the file was changed: `polchain fsck` says which",
            )
    targets = {size: target_of(keys.open(note, origin), note) for size, note in notes.items()}
    return AnchorLog(run, book, genesis, newest, targets)


def stands(kept: Kept, anchor: EthereumAnchor) -> bool:
    """Whether a receipt is final and its block still the chain's; of a node that is behind nothing else is assumed.

    Raises:
        AnchorUnavailableError: the network cannot be reached.
    """
    from polchain.anchors.evidence import Evidence
    from polchain.anchors.inclusion import check_header

    inclusion = Evidence.read(kept.filed.receipt).inclusion if kept.final else None
    if inclusion is None:
        return False
    number = check_header(inclusion.header, inclusion.block).number
    return anchor.nodes[0].block_hash(number) in (inclusion.block, None)


def bring_up(
    log: AnchorLog, kept: Kept, anchor: EthereumAnchor, known: dict[Target, Receipt] | None = None
) -> Published:
    """A receipt as the network has it now, and kept so.

    Args:
        known: what was answered already; the heads of one batch share an answer.

    Raises:
        AnchorError, InclusionError: the receipt is not of its head.
        AnchorUnavailableError: the network cannot be reached, or the transaction can never come any more.
    """
    known = {} if known is None else known
    filed = kept.filed
    try:
        target = filed.target(log.targets[filed.head_size])
        if target not in known:
            known[target] = filed.receipt if stands(kept, anchor) else anchor.upgrade(filed.receipt, target)
    except AnchorError as error:
        raise AnchorError(f"the receipt of head {filed.head_size} from {kept.source}: {error}") from error
    if known[target] != filed.receipt:
        filed = replace(filed, receipt=known[target])
        log.book.put(kept.source, filed)
    return log.published(kept.source, filed)
