"""Exact replay on a GPU: does it hold in each way of computing, and what does it cost?

    python -m benchmarks.gpu [--rounds 3] [--only NAME] [--results FILE]

Records tests/scripts/accelerated.py, verifies every segment of the runs, and writes
benchmarks/results/gpu.json. Where there is no GPU it says so, and a result of an earlier run on one is kept.

    plain              seconds a step of the script, nothing recorded; the median of all rounds
    exact              segments that were reproduced exactly, of those replayed
    replay             seconds a step, and seconds to start a segment: from segments of 10 and of 40 steps
    CPU against CUDA   rho of the parameters by length and first step, and what `polchain calibrate` advises
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from polchain.core.keys import PrivateKey
from polchain.prover.export import export
from polchain.storage.keyfile import write_key
from polchain.verifier.calibrating import Wish, calibrate
from polchain.verifier.policy import Policy
from polchain.verifier.replay import Outcome
from polchain.verifier.verify import verify
from polchain.verifier.vouching import OwnRecipe

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "gpu.json"
SCRIPT = ROOT / "tests" / "scripts" / "accelerated.py"
DATA = ROOT / "examples" / "data"
STEPS = 100
INTERVALS = (10, 40)
MODES = {
    "fp32": ("--precision", "fp32"),
    "tf32": ("--precision", "tf32"),
    "bf16 autocast, scaler": ("--precision", "bf16", "--scaler"),
    "fp32, torch.compile": ("--precision", "fp32", "--compile"),
}


def train(folder: Path, arguments: tuple[str, ...]) -> float:
    """Run the script in a process of its own: seconds a step, as it says."""
    environment = {**os.environ, "POLCHAIN_KEY_FILE": str(folder / "key"), "POLCHAIN_DATA": str(DATA)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    found = re.search(r"([\d.]+) seconds a step", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def measure(arguments: tuple[str, ...], rounds: int = 3) -> dict[str, Any]:
    """One way of computing."""
    common = (*arguments, "--width", "256", "--steps", str(STEPS))
    found: dict[str, Any] = {}
    replays: dict[int, float] = {}
    exact = total = 0
    plain: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            plain.append(train(Path(name), (*common, "--off")))
    for every in INTERVALS:
        with tempfile.TemporaryDirectory() as name:
            folder, key = Path(name), PrivateKey.generate()
            write_key(folder / "key", key, None)
            words = (*common, "--every", str(every))
            train(folder, words)
            export(folder / "run", folder / "claim")
            policy = Policy(keys=frozenset([key.public]))
            verdict = verify(folder / "claim", policy, data=DATA, recipe=SCRIPT, recipe_arguments=words, full=True)
            found[f"verdict, every {every}"] = verdict.outcome.value
            done = [item for item in verdict.reproductions if item.pick is not None]
            exact += sum(item.outcome is Outcome.EXACT for item in done)
            total += len(done)
            replays[every] = statistics.median(item.seconds for item in done)
    few, many = INTERVALS
    slope = (replays[many] - replays[few]) / (many - few)
    base = statistics.median(plain)
    return {
        **found,
        "exact": exact,
        "replayed": total,
        "plain, s a step": base,
        "replay, of plain": slope / base,
        "start of a segment, s": replays[few] - few * slope,
    }


def compare() -> dict[str, Any]:
    """The reproduction error between this machine's GPU and its CPU, in fp32."""
    recipe = OwnRecipe.script(SCRIPT, ("--steps", str(STEPS)))
    answer = calibrate(Wish(recipe, DATA, {}, lengths=(1, 2, 5, 10, 20), quick=True))
    cuda, cpu = answer.names.index("CUDA"), next(i for i, name in enumerate(answer.names) if name.startswith("CPU"))
    pair = (min(cuda, cpu), max(cuda, cpu))
    advice = answer.advice[pair]
    return {
        "between": [answer.names[i] for i in pair],
        "late from step": answer.calibration.late,
        "rho of the parameters": [
            {"from step": point.first, "steps": point.steps, "rho": point.errors.parameters}
            for point in answer.calibration.points
            if point.pair == pair
        ],
        "the same in fp64": [
            {"from step": point.first, "steps": point.steps, "rho": point.errors.parameters}
            for point in answer.double
            if point.pair == pair
        ],
        "advice": advice.every or f"only exact replay can serve: {advice.reason}",
    }


def main() -> None:
    """Measure, print, write."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="what of the modes, by how its name begins")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: Path = options.results

    results.parent.mkdir(exist_ok=True)
    if not torch.cuda.is_available():
        print("no CUDA device here: the benchmark was not run")
        if not results.exists():
            results.write_text(json.dumps({"run": False, "reason": "no CUDA device was at hand"}, indent=1) + "\n")
        return
    found: dict[str, Any] = {
        "run": True,
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "rounds": options.rounds,
        "modes": {},
    }
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        name: partial(measure, arguments, options.rounds) for name, arguments in MODES.items()
    }
    measures["CPU against CUDA"] = compare
    for name, act in measures.items():
        if name.startswith(options.only):
            found["modes"][name] = act()
            print(name, json.dumps(found["modes"][name]), flush=True)
            results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
