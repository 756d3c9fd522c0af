"""torch beside the training: one thread for a while, or for good in a thread of its own.

How many threads torch shares its work among decides bits, and torch keeps the number twice: one for the process, one
for each thread, which takes the process' number when it first asks and keeps it. So a thread that is started within
`one_thread` and calls `settle` first has torch to itself alone for good: it changes nobody's number, has no pool of
threads to stall the training's, and its own sums do not depend on when it was started.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread", "settle"]


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread in this thread meanwhile, and for each thread that settles meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def settle() -> None:
    """In a new thread: take the process' number of torch threads now, and keep it."""
    torch.get_num_threads()
