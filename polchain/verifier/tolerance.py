"""Comparison of a replayed segment with what the prover claimed.

    state roots equal                                                                       exact
    differ; the verifier reproduces itself; rho over 0.05 and over ten times its own
    largest noise on this very segment under at least two other settings                    REFUTED
    differ otherwise                                                                        INCONCLUSIVE

rho is the largest over the state groups, so that altered moments count as much as altered weights. Noise is measured
here, by the verifier: the same segment replayed with other threads and instruction sets. And a difference convicts only
where this machine can be expected to agree at all: the same torch, the same kind of device. Calibrated comparison
for other hardware has its seat here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from polchain.core.manifest import GROUPS, Manifest, Scalar, ScalarRow, Snapshot
from polchain.training.distance import group_error

__all__ = ["Examination", "comparable", "examine", "false_setting", "largest_error"]

REFUTING_RHO = 0.05
NOISE_FACTOR = 10.0
# Schedules are float arithmetic: another library version may round another way, never by this much.
SETTING_TOLERANCE = 1e-6

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
    names = ("torch", "device", "machine", "gpu", "precision")
    return [
        f"recorded with {name} {claimed.get(name)}, here {here.get(name)}"
        for name in names
        if str(claimed.get(name, "")).partition("+")[0] != str(here.get(name, "")).partition("+")[0]
    ]


def examine(
    opening: Snapshot,
    claimed: Snapshot,
    first: Snapshot,
    again: Callable[[], Snapshot],
    elsewhere: Callable[[], list[Snapshot]],
    obstacles: list[str],
) -> Examination:
    """Decide what a segment is whose replay does not give the claimed roots.

    Args:
        opening: the state it was opened with.
        claimed: the state that the prover claims it closes with.
        first: the state that the replay closed with.
        again: replays it once more with the same setting.
        elsewhere: replays it with at least two other settings; fewer where they cannot be had.
        obstacles: why this machine may not be expected to agree (`comparable`).
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
    return isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=SETTING_TOLERANCE)
