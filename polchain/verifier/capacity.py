"""How many segments this machine can replay at a time.

cores     those that this process may use, over the threads of the recording's setting: more would only wait
memory    what is free when verification begins, less a tenth, over what one replay needs: the most that a job has
          used so far, or what the policy allows one; and copies of a state on both sides of the stream
GPUs      one each, where the run was on one; they are dealt out in turn
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from polchain.training.fingerprint import Setting, visible_gpus
from polchain.verifier.allowance import GIB, Allowance, free_memory
from polchain.verifier.integrity import IntactClaim

__all__ = ["Capacity"]

# A warm child with torch, before it has run anything.
CHILD = GIB // 2
# Opening and closing state here, and the opening there; parameters, gradients and moments of whoever counts no peak.
COPIES = 3
UNSEEN = 3


@dataclass(frozen=True, slots=True)
class Capacity:
    """What this machine bears.

    Attributes:
        asked: how many segments at a time the user wants; None for as many as fit.
        setting: what the run was recorded with.
        state: bytes of one of its states.
        allowed: bytes that the policy allows one recipe; 0 where it says nothing.
        memory: bytes that are free for all of them.
        cores: processors that this process may use.
        gpus: names of the GPUs, where the run was on one.
    """

    asked: int | None
    setting: Setting
    state: int
    allowed: int
    memory: int
    cores: int
    gpus: tuple[str, ...]

    @classmethod
    def here(cls, intact: IntactClaim, setting: Setting, allowance: Allowance, asked: int | None) -> Capacity:
        """The capacity of this machine as it is now, for this claim."""
        return cls(
            asked,
            setting,
            state=_state_bytes(intact),
            allowed=int(allowance.memory * GIB),
            memory=free_memory(),
            cores=len(os.sched_getaffinity(0)),
            gpus=visible_gpus() if setting.cuda else (),
        )

    @property
    def most(self) -> int:
        """Segments at a time, whatever memory they need."""
        if self.asked is not None:
            return self.asked
        return max(1, len(self.gpus) if self.setting.cuda else self.cores // self.setting.threads)

    def lanes(self, peak: int) -> int:
        """Segments at a time, where a job has used so many bytes at most; 0 for nobody knows."""
        if self.asked is not None:
            return self.asked
        need = COPIES * self.state + max(self.allowed, peak, CHILD + (0 if peak else UNSEEN * self.state))
        return max(1, min(self.most, self.memory // need))

    def gpu(self, lane: int) -> str:
        """The GPU of a lane; empty where there is no choice."""
        return self.gpus[lane % len(self.gpus)] if len(self.gpus) > 1 else ""


def _state_bytes(intact: IntactClaim) -> int:
    for entry in (intact.checkpoints[-1], intact.checkpoints[0]):
        manifest = intact.claim.manifest(entry.state)
        if manifest is not None:
            return sum(row.size for row in manifest.tensors())
    return 0
