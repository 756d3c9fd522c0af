"""The commitment to a dataset: samples a second, by one process and by several, and with little memory.

    python -m benchmarks.data [--most 10000000]

A sample is 784 bytes and a label, as tensors; it is made when it is read, so that reading costs next to nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from benchmarks.common import Result, in_child, machine, write


def child(samples: int, workers: int) -> Result:
    """One commitment, in this process."""
    import torch

    from polchain.training.dataset import Commitment

    pool = torch.arange(1 << 20, dtype=torch.int64).mul(2654435761).remainder(251).to(torch.uint8)

    class Data:
        def __len__(self) -> int:
            return samples

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            start = index % 1_000_000
            return pool[start : start + 784], index

    begun = time.perf_counter()
    ref = Commitment.of(Data(), workers=workers).ref()
    return {"seconds": time.perf_counter() - begun, "root": str(ref.root)}


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000_000)
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    about, found = machine(), []
    processes = len(os.sched_getaffinity(0))
    for samples, workers in ((100_000, 0), (100_000, processes), (1_000_000, processes), (options.most, processes)):
        if samples <= options.most:
            row = in_child("benchmarks.data", "--child", str(samples), str(workers))
            found.append({"samples": samples, "processes": workers or 1, **row})
            print(found[-1], file=sys.stderr, flush=True)
    write("data", found, about)


if __name__ == "__main__":
    main()
