"""Comparison of a replayed segment with what the prover claimed.

    state roots equal                                                                       exact
    differ; the verifier reproduces itself; rho over 0.05 and over ten times its own
    largest noise on this very segment under at least two other settings                    REFUTED
    differ otherwise                                                                        INCONCLUSIVE

rho is the largest over the state groups, so that altered moments count as much as altered weights. Noise is measured
here, by the verifier: the same segment replayed with other threads and instruction sets. And a difference convicts only
where this machine can be expected to agree at all: the same torch, Python, BLAS and libraries of the recipe, the same
kind of device, and for a GPU the same model, driver and CUDA libraries, for no setting of ours makes noise there.
Calibrated comparison for other hardware has its seat here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import GROUPS, Scalar, ScalarRow
from polchain.training.distance import group_error

__all__ = ["Examination", "comparable", "examine", "false_setting", "largest_error", "other_versions"]

REFUTING_RHO = 0.05
NOISE_FACTOR = 10.0
# Schedules are float arithmetic: another library may round another way, never by this much. The end of a cosine is a
# small difference of large numbers, whose relative error is large: hence the floor.
SETTING_TOLERANCE = 1e-6
SETTING_FLOOR = 1e-9

# What decides whether this machine can be expected to agree at all. The noise that settings of a CPU make says nothing
# about a GPU, so there everything has to be equal.
CPU_NAMES = ("torch", "python", "device", "machine", "blas", "precision")
GPU_NAMES = ("gpu", "cuda", "cudnn", "driver", "sdp", "tf32")
UNUSED_BY_RECIPES = frozenset({
    "bcrypt", "blake3", "cffi", "click", "cryptography", "filelock", "fsspec", "jinja2", "markdown-it-py", "markupsafe",
    "mdurl", "mpmath", "networkx", "packaging", "pip", "platformdirs", "pluggy", "polchain", "pycparser", "pygments",
    "python-dateutil", "rich", "safetensors", "setuptools", "shellingham", "six", "sqlite-fts4", "sqlite-utils",
    "sympy", "tabulate", "typer", "typing-extensions", "wheel",
})  # fmt: skip

Fingerprint = Mapping[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class Examination:
    """What a segment that differs turned out to be.

    Attributes:
        refuted: whether the difference convicts the prover.
        rho: reproduction error, dimensionless.
        noise: the verifier's own largest error between settings on this segment.
        reason: why, in words.
    """

    refuted: bool
    rho: float
    noise: float
    reason: str


def largest_error(opening: Snapshot, claimed: Snapshot, replayed: Snapshot) -> tuple[float, str]:
    """The largest rho over the state groups that have tensors, and the group that has it."""
    errors = {group: group_error(opening, claimed, replayed, group) for group in GROUPS if group != "schedule"}
    worst = max(errors, key=lambda group: errors[group])
    return errors[worst], worst


def comparable(claimed: Fingerprint, here: Fingerprint) -> list[str]:
    """What keeps a difference from convicting: versions and devices that draw or round in another way altogether."""
    names = CPU_NAMES if claimed.get("device") == here.get("device") == "cpu" else CPU_NAMES + GPU_NAMES
    return [
        f"recorded with {name} {claimed.get(name)}, here {here.get(name)}"
        for name in names
        if _release(name, claimed.get(name, "")) != _release(name, here.get(name, ""))
    ]


def other_versions(imports: Sequence[str]) -> list[str]:
    """The libraries that the recipe loaded and that are of another version here, or not here: they may draw initial
    weights, decode samples or round in another way. Those that only torch or polchain use are left out."""
    found = []
    for name, _, version in (text.partition("==") for text in imports):
        if name.lower().replace("_", "-") in UNUSED_BY_RECIPES:
            continue
        try:
            here = metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            here = "none"
        if here.partition("+")[0] != version.partition("+")[0]:
            found.append(f"recorded with {name} {version}, here {here}")
    return found


def _release(name: str, value: object) -> str:
    text = str(value)
    if name == "python":
        return ".".join(text.split(".")[:2])
    return text.partition("+")[0]


def examine(
    opening: Snapshot,
    claimed: Snapshot,
    first: Snapshot,
    again: Callable[[], Snapshot],
    elsewhere: Callable[[], list[Snapshot]],
    obstacles: list[str],
    *,
    other_cpu: bool = False,
) -> Examination:
    """Decide what a segment is whose replay does not give the claimed roots.

    Args:
        opening: the state it was opened with.
        claimed: the state that the prover claims it closes with.
        first: the state that the replay closed with.
        again: replays it once more with the same setting.
        elsewhere: replays it with at least two other settings; fewer where they cannot be had.
        obstacles: why this machine may not be expected to agree (`comparable`, `other_versions`).
        other_cpu: whether the prover's CPU was another model: then no noise at all means that none could be measured.
    """
    rho, group = largest_error(opening, claimed, first)
    if obstacles:
        return Examination(False, rho, math.nan, f"differs, but {obstacles[0]}")
    if again().manifest.roots() != first.manifest.roots():
        return Examination(False, rho, math.nan, "differs, and the verifier does not reproduce itself")
    if not rho > REFUTING_RHO:
        return Examination(False, rho, math.nan, f"differs by rho {rho:.2g} of the {group} rows, too little to convict")
    others = elsewhere()
    if len(others) < 2:
        return Examination(False, rho, math.nan, "differs, and the verifier's own noise could not be measured")
    noise = max(largest_error(opening, other, first)[0] for other in others)
    if noise == 0.0 and other_cpu:
        return Examination(False, rho, noise, "differs; on another CPU model, and no setting here makes any noise")
    if not rho > NOISE_FACTOR * noise:
        return Examination(
            False, rho, noise, f"differs by rho {rho:.2g}, within ten times this machine's noise of {noise:.2g}"
        )
    return Examination(
        True, rho, noise, f"the claimed {group} state is off by rho {rho:.3g}; this machine's own noise is {noise:.2g}"
    )


def false_setting(claimed: Manifest, rebuilt: Manifest) -> str:
    """The first optimizer setting that the claim states and the recipe contradicts; empty where none does.

    Rows that only one side has, and differences in the last bits, contradict nothing: library versions differ.
    """
    ours = {row.name: row for row in rebuilt.group("schedule")}
    for row in claimed.group("schedule"):
        other = ours.get(row.name)
        if not row.name.startswith("schedule/settings/"):
            continue
        if not isinstance(row, ScalarRow) or not isinstance(other, ScalarRow) or row.text == other.text:
            continue
        if _close(row.value, other.value):
            continue
        return f"{row.name.removeprefix('schedule/settings/')} is {row.value}, the recipe makes it {other.value}"
    return ""


def _close(a: Scalar, b: Scalar) -> bool:
    return (
        isinstance(a, float)
        and isinstance(b, float)
        and math.isclose(a, b, rel_tol=SETTING_TOLERANCE, abs_tol=SETTING_FLOOR)
    )
