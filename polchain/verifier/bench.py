"""The bench: children that replay one claim's program, and what of the claim they are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polchain.core.digest import Digest
from polchain.core.entries import CheckpointEntry
from polchain.core.manifest import Snapshot
from polchain.errors import WorkerError
from polchain.storage.checkpoints import read_tensors
from polchain.training.fingerprint import Setting
from polchain.training.held import Held
from polchain.training.program import Program
from polchain.training.wire import Bounds
from polchain.training.words import KEPT
from polchain.training.worker import Replayed, Worker
from polchain.verifier.integrity import IntactClaim, Segment
from polchain.verifier.sandbox import Sandbox
from polchain.verifier.tolerance import Fingerprint

__all__ = ["Bench", "batches_of", "bounds_of", "run_segment", "state_of"]

# No verdict of polchain's: what a recipe prints or raises is its own word.
VOICE = "the recipe says: "


class Bench:
    """The children that replay one claim's program: one per setting, started when first needed.

    Args:
        program: the recipe's text.
        setting: what the claim says that it was recorded with.
        data: the folder with the dataset.
        timeout: the most seconds that one replay may take.
        sandbox: where the program is run; None to run it as the user.
        gpu: the one that the children may see, as CUDA_VISIBLE_DEVICES names it; empty for what this process sees.
        held: the samples that an opening discloses; None where the data is at hand.
        regenerates: whether a state that is not disclosed is regenerated where that can be done.
    """

    def __init__(
        self,
        program: Program,
        setting: Setting,
        data: Path,
        *,
        timeout: float = 3600.0,
        sandbox: Sandbox | None = None,
        gpu: str = "",
        held: Held | None = None,
        regenerates: bool = True,
    ) -> None:
        self.held = held
        self.regenerates = regenerates
        self.setting = setting
        kept = sandbox.kept if sandbox is not None else KEPT
        self._make: Callable[[Setting], Worker] = lambda s: Worker(
            program, s, data.resolve(), timeout=timeout, voice=VOICE, fence=sandbox, kept=kept, gpu=gpu, held=held
        )
        self._workers: dict[Setting, Worker] = {}
        self._interrupted = False
        self.here: Fingerprint = {}
        # By its digest, the last state that was reproduced here and that the claim does not disclose (`regeneration`).
        self.last: tuple[Digest, Snapshot] | None = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children."""
        self.last = None
        for worker in self._workers.values():
            worker.close()

    def reset(self) -> None:
        """After an interruption: end the children, and begin with new ones when they are needed."""
        if self._interrupted:
            self.close()
            self._workers.clear()
            self._interrupted = False

    def interrupt(self) -> None:
        """From another thread: what is under way ends in a WorkerError, and so does whatever is asked later."""
        self._interrupted = True
        for worker in list(self._workers.values()):
            worker.interrupt()

    @property
    def peak(self) -> int:
        """Bytes that a job has had in memory at most; 0 without a sandbox."""
        return max((worker.peak for worker in list(self._workers.values())), default=0)

    def worker(self, setting: Setting | None = None) -> Worker:
        """The child with this setting; the claim's own where none is named."""
        wanted = setting or self.setting
        if wanted not in self._workers:
            self._workers[wanted] = self._make(wanted)
        if self._interrupted:
            self._workers[wanted].interrupt()
        return self._workers[wanted]


def run_segment(
    intact: IntactClaim, segment: Segment, worker: Worker, opening: Snapshot, shown: int = 0, *, further: bool = True
) -> Replayed:
    """Replay one segment; the claim's digests are not looked at.

    Args:
        intact: the claim.
        segment: which of its segments.
        worker: the child that replays it.
        opening: the state to begin from.
        shown: a step on the way whose state is wanted besides; 0 for none.
        further: whether to go on after that state.

    Raises:
        RecipeError, DatasetError, WorkerError: the program failed, or the child did.
    """
    assert intact.seed is not None
    batches = batches_of(intact, segment)
    closing = intact.claim.manifest(segment.closing.state)
    known = [opening.manifest, *([closing] if closing is not None else [])]
    bounds = Bounds.of_state(known, sure=closing is not None)
    result = worker.replay(
        intact.seed, segment.first, segment.last, batches, opening, bounds=bounds, shown=shown, further=further
    )
    if [closing.step for closing in result.closings] != [segment.last] * further:
        raise WorkerError("the replay ended at another step than it was asked for")
    return result


def batches_of(intact: IntactClaim, segment: Segment) -> list[list[int]]:
    """The dataset indices of a segment's steps."""
    assert intact.order is not None
    return list(intact.order.batches(segment.first, segment.last))


def bounds_of(intact: IntactClaim, *entries: CheckpointEntry) -> Bounds:
    """The most that a replay may answer, where it should arrive at the states of these entries."""
    found = [intact.claim.manifest(entry.state) for entry in entries]
    known = [manifest for manifest in found if manifest is not None]
    return Bounds.of_state(known, sure=len(known) == len(found))


def state_of(intact: IntactClaim, entry: CheckpointEntry) -> Snapshot | None:
    """A state that the claim discloses, every byte of it checked; None where it does not."""
    manifest = intact.claim.manifest(entry.state)
    path = intact.claim.checkpoint(entry.state)
    if manifest is None or path is None:
        return None
    return read_tensors(path, manifest)
