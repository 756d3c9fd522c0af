"""How long a segment takes to start on a warm child, without a sandbox and in one.

    python -m benchmarks.startup

Measured on a small network (8,970 parameters) and a larger one (1.1 million), Adam, from the call to the answer:

    child      a new warm child: Python, torch, a first optimizer. Once a verification, and lane
    empty      a segment of no steps: a room where there is one, a fork, the recipe up to its loop, the opening state
               sent, put back, read again and hashed
    one step   the same with one step, and the closing state sent and hashed
    room       what making and closing the room alone takes

Medians; the range is from the tenth to the ninetieth percentile. Writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polchain.core.digest import blake3
from polchain.core.genesis import FileRef, RecipeRef
from polchain.errors import UnavailableError
from polchain.training.fingerprint import Setting
from polchain.training.program import Program
from polchain.training.randomness import BatchOrder
from polchain.training.worker import Worker
from polchain.verifier.allowance import Allowance
from polchain.verifier.sandbox import Sandbox, find_sandbox

RESULTS = Path(__file__).parent / "results" / "startup.json"
SEED = bytes(range(32))
ROUNDS = 40
SAMPLES, BATCH = 256, 16
WIDTHS = {"small": 64, "larger": 1024}
RECIPE = """
    import torch
    from torch import nn
    from torch.nn import functional as F
    import polchain

    source = torch.Generator().manual_seed(7)
    inputs = torch.randn({samples}, 64, generator=source)
    data = [(x, i % 10) for i, x in enumerate(inputs)]

    with polchain.record("run", data=data, batch_size={batch}, steps=1000, every=1) as run:
        hidden = [nn.Linear(64, {width}), nn.ReLU(), nn.Linear({width}, {width}), nn.ReLU()]
        model = nn.Sequential(*hidden, nn.Linear({width}, 10))
        optimizer = torch.optim.Adam(model.parameters())
        run.attach(model=model, optimizer=optimizer)
        for step, (x, y) in run.batches():
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
"""


def program(width: int) -> Program:
    """The recipe with hidden layers of this width."""
    text = textwrap.dedent(RECIPE.format(samples=SAMPLES, batch=BATCH, width=width)).encode()
    return Program(
        RecipeRef("train.py", False, (), (FileRef("train.py", len(text), blake3(text)),), ()), {"train.py": text}
    )


def timed(action: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds: the median and a range, after two rounds that do not count."""
    taken = []
    for number in range(ROUNDS + 2):
        begun = time.perf_counter()
        action()
        if number > 1:
            taken.append(1000 * (time.perf_counter() - begun))
    tenths = statistics.quantiles(taken, n=10)
    return {"median": statistics.median(taken), "from": tenths[0], "to": tenths[-1]}


def measure(width: int, fence: Sandbox | None) -> dict[str, dict[str, float]]:
    """One network, without a sandbox or in one."""
    with tempfile.TemporaryDirectory() as data, Worker(program(width), Setting(1), Path(data), fence=fence) as worker:
        begun = time.perf_counter()
        worker.warm()
        child = 1000 * (time.perf_counter() - begun)
        order = list(BatchOrder(SEED, SAMPLES, BATCH).batches(0, 2))
        state = worker.replay(SEED, 0, 1, order[:1], worker.initial(SEED)[0]).closings[0].snapshot
        return {
            "child": {"median": child, "from": child, "to": child},
            "empty": timed(lambda: worker.replay(SEED, 1, 1, [], state)),
            "one step": timed(lambda: worker.replay(SEED, 1, 2, order[1:], state)),
        }


def main() -> None:
    """Measure, print the table, write the file."""
    try:
        fence = find_sandbox(Path(tempfile.mkdtemp()), [], Allowance())
    except UnavailableError as error:
        print(f"no sandbox here: {error}")
        fence = None
    places: dict[str, Sandbox | None] = {"without": None} | ({fence.name: fence} if fence is not None else {})
    found: dict[str, Any] = {
        f"{name}, {place}": measure(width, sandbox)
        for name, width in WIDTHS.items()
        for place, sandbox in places.items()
    }
    if fence is not None:
        found[f"room, {fence.name}"] = {"room": timed(lambda: fence.open(Setting(1)).close())}
    print(f"{'milliseconds':<28}{'':<10}{'median':>8}   10 % to 90 %")
    for name, rows in found.items():
        for what, row in rows.items():
            print(f"{name:<28}{what:<10}{row['median']:>8.1f}   {row['from']:.1f} to {row['to']:.1f}")
    about = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version(), "rounds": ROUNDS}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"milliseconds": found, "measured on": about}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
