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
from contextlib import ExitStack
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


class Subject:
    """One network on a warm child, without a sandbox or in one."""

    def __init__(self, width: int, fence: Sandbox | None, data: Path) -> None:
        self.worker = Worker(program(width), Setting(1), data, fence=fence)
        begun = time.perf_counter()
        self.worker.warm()
        self.child = 1000 * (time.perf_counter() - begun)
        self.order = list(BatchOrder(SEED, SAMPLES, BATCH).batches(0, 2))
        first = self.worker.initial(SEED)[0]
        self.state = self.worker.replay(SEED, 0, 1, self.order[:1], first).closings[0].snapshot

    def empty(self) -> None:
        """A segment of no steps."""
        self.worker.replay(SEED, 1, 1, [], self.state)

    def one_step(self) -> None:
        """A segment of one."""
        self.worker.replay(SEED, 1, 2, self.order[1:], self.state)


def measure(actions: dict[tuple[str, str], Callable[[], object]]) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of each action, round by round: whatever else the machine does disturbs all of them alike."""
    taken: dict[tuple[str, str], list[float]] = {name: [] for name in actions}
    for number in range(ROUNDS + 2):
        for name, action in actions.items():
            begun = time.perf_counter()
            action()
            if number > 1:  # the first two do not count
                taken[name].append(1000 * (time.perf_counter() - begun))
    return taken


def main() -> None:
    """Measure, print the table, write the file."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = Path(folder)
        try:
            fence = find_sandbox(data, [], Allowance())
        except UnavailableError as error:
            print(f"no sandbox here: {error}")
            fence = None
        places: dict[str, Sandbox | None] = {"without": None} | ({fence.name: fence} if fence is not None else {})
        actions: dict[tuple[str, str], Callable[[], object]] = {}
        taken: dict[tuple[str, str], list[float]] = {}
        for name, width in WIDTHS.items():
            for place, sandbox in places.items():
                subject = Subject(width, sandbox, data)
                stack.enter_context(subject.worker)
                taken[f"{name}, {place}", "child"] = [subject.child]
                actions |= {(f"{name}, {place}", "empty"): subject.empty}
                actions |= {(f"{name}, {place}", "one step"): subject.one_step}
        if fence is not None:
            actions[fence.name, "room"] = lambda: fence.open(Setting(1)).close()
        taken |= measure(actions)
    found: dict[str, dict[str, Any]] = {}
    print(f"{'milliseconds':<28}{'':<10}{'median':>8}   10 % to 90 %")
    for (name, what), times in sorted(taken.items()):
        low, *_, high = statistics.quantiles(times, n=10) if len(times) > 1 else [times[0], times[0]]
        found.setdefault(name, {})[what] = {"median": statistics.median(times), "from": low, "to": high}
        print(f"{name:<28}{what:<10}{statistics.median(times):>8.1f}   {low:.1f} to {high:.1f}")
    about = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version(), "rounds": ROUNDS}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"milliseconds": found, "measured on": about}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
