"""The double: a source of time in this process, for tests. It proves nothing, and no policy accepts its kind.

now = [0]
anchor = MemoryAnchor(clock=lambda: now[0])
receipt = anchor.submit(target)             pending
anchor.mine()                               a block; `finality` more make it final
anchor.upgrade(receipt, target)             final
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from polchain.anchors.base import Receipt, Target, Timestamp
from polchain.core.encoding import Fields
from polchain.errors import AnchorError, AnchorUnavailableError

__all__ = ["MemoryAnchor"]


@dataclass(frozen=True, slots=True)
class _Block:
    time: int
    targets: tuple[Target, ...]


class MemoryAnchor:
    """A chain in a list: targets wait until `mine`, and are final `finality` blocks later.

    Attributes:
        down: while true, the service cannot be reached.
        published: every target that was ever sent, a second sending too.
    """

    kind = "memory"

    def __init__(self, *, finality: int = 1, clock: Callable[[], float] = time.time) -> None:
        self.finality = finality
        self.down = False
        self.published: list[Target] = []
        self._clock = clock
        self._blocks: list[_Block] = []
        self._waiting: list[Target] = []

    def submit(self, target: Target) -> Receipt:
        """Publish a target, unless it is published already."""
        self._reach()
        if self._height(target) is None and target not in self._waiting:
            self._waiting.append(target)
            self.published.append(target)
        return self._receipt(target)

    def upgrade(self, receipt: Receipt, target: Target) -> Receipt:
        """What has become of it; what a reorganisation took away is sent again."""
        _fields(receipt, target)
        return self.submit(target)

    def check(self, receipt: Receipt, target: Target) -> Timestamp:
        """When the target was published, as this chain remembers it."""
        height, said = _fields(receipt, target)
        if height is None:
            raise AnchorUnavailableError("memory: the receipt is pending: it is in no block yet")
        found = self._blocks[height] if height < len(self._blocks) else None
        if found is None or target not in found.targets or found.time != said:
            raise AnchorError(f"memory: block {height} does not hold what the receipt says")
        final = len(self._blocks) > height + self.finality
        return Timestamp(
            f"memory block {height}", found.time, 0, "final" if final else "unchecked", ("a double: it proves nothing",)
        )

    def mine(self, blocks: int = 1) -> None:
        """Make blocks; the first takes whatever waits."""
        for _ in range(blocks):
            self._blocks.append(_Block(int(self._clock()), tuple(self._waiting)))
            self._waiting = []

    def reorganise(self, depth: int) -> None:
        """Replace the last blocks by empty ones; what they held is forgotten."""
        del self._blocks[-depth:]
        self.mine(depth)

    def _reach(self) -> None:
        if self.down:
            raise AnchorUnavailableError("memory: the service is down")

    def _height(self, target: Target) -> int | None:
        return next((i for i, block in enumerate(self._blocks) if target in block.targets), None)

    def _receipt(self, target: Target) -> Receipt:
        body: dict[str, str | int] = {"log": target.log.hex(), "root": target.root.hex(), "size": target.size}
        height = self._height(target)
        if height is None:
            return Receipt(self.kind, "pending", body)
        body |= {"block": height, "time": self._blocks[height].time}
        final = len(self._blocks) > height + self.finality
        return Receipt(self.kind, "final" if final else "pending", body)


def _fields(receipt: Receipt, target: Target) -> tuple[int | None, int | None]:
    """The block and time that a receipt names, after it was checked to be of this target."""
    if receipt.kind != MemoryAnchor.kind:
        raise AnchorError(f"a receipt of the kind {receipt.kind!a} is not from memory")
    fields = Fields(dict(receipt.body), "memory receipt")
    said = fields.str("log"), fields.str("root"), fields.int("size")
    height = fields.int("block") if fields.has("block") else None
    when = fields.int("time") if height is not None else None
    fields.done()
    if said[0] != target.log.hex():
        raise AnchorError("memory: the receipt is of another log")
    if said != (target.log.hex(), target.root.hex(), target.size):
        raise AnchorError("memory: the receipt is of another head")
    return height, when
