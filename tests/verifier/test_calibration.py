"""Calibrations: the file, what it tolerates, what adds up, what it advises. Nothing is trained here."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polchain.core.digest import Digest, blake3
from polchain.core.encoding import JSON, decode, encode
from polchain.core.genesis import Configuration, DatasetRef
from polchain.errors import FormatError, PolicyError, UsageError
from polchain.training.rho import PARTS, Errors
from polchain.verifier.advice import advise, choose_late, segments_of
from polchain.verifier.calibration import FILE_LIMIT, Calibration, InitialPoint, Point, same_fingerprint
from polchain.verifier.plans import machines_here, plan
from polchain.verifier.policy import Policy
from polchain.verifier.tau import CAPS, Road, Tolerance, find_tolerance, tolerance_between

PROGRAM, DATASET = Digest("sha256", bytes(32)), DatasetRef(100, Digest("sha256", bytes(32)))
HERE = {"torch": "2.13.0+cpu", "python": "3.11.7", "polchain": "1", "cpu": "X", "threads": 1, "onednn": True}
THERE = {**HERE, "threads": 2}


def point(first: int, steps: int, rho: float, pair: tuple[int, int] = (0, 1), update: float = 1.0) -> Point:
    return Point(pair, first, steps, update, Errors.by_part(lambda part: rho))


POINTS = (
    point(0, 1, 1e-5), point(0, 10, 3e-2), point(20, 1, 2e-5), point(20, 10, 4e-4),
    point(100, 1, 1e-7), point(100, 10, 1e-5), point(200, 10, 3e-5),
)  # fmt: skip
CALIBRATION = Calibration(
    program=PROGRAM,
    dataset=DATASET,
    steps=400,
    late=100,
    memory=0.0,
    trained=30.0,
    initial=10.0,
    fingerprints=(THERE, HERE),
    initials=(InitialPoint((0, 1), 0.0),),
    points=POINTS,
)


def tolerance(**changes: object) -> Tolerance:
    found = tolerance_between(replace(CALIBRATION, **changes), THERE, HERE)  # type: ignore[arg-type]
    assert isinstance(found, Tolerance)
    return found


# The file


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Calibration.decode(CALIBRATION.encode()) == CALIBRATION
    (tmp_path / "c.json").write_bytes(CALIBRATION.encode())
    assert Calibration.read(tmp_path / "c.json") == CALIBRATION
    assert CALIBRATION.digest == blake3(CALIBRATION.encode())


def test_an_infinite_error_is_written_as_a_huge_one() -> None:
    found = Calibration.decode(replace(CALIBRATION, points=(point(0, 1, math.inf),)).encode())
    assert found.points[0].errors.parameters == 1e9


def changed(**changes: JSON) -> bytes:
    value = decode(CALIBRATION.encode(), limit=FILE_LIMIT, what="calibration")
    assert isinstance(value, dict)
    return encode({**value, **changes})


def changed_point(**changes: JSON) -> bytes:
    value = POINTS[0].to_json()
    assert isinstance(value, dict)
    return changed(points=[{**value, **changes}])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{}", "field 'format': missing"),
        (CALIBRATION.encode() + b"\n", "not canonical"),
        (changed(format="polchain-calibration/v2"), "the format is not"),
        (changed(more=1), "unknown field"),
        (changed(memory=(1.5).hex()), "no decay"),
        (changed(memory=(-0.5).hex()), "no decay"),
        (changed(memory="nan"), "hexadecimal"),
        (changed(late=401), "outside 0 to 400"),
        (changed(steps=0), "outside 1"),
        (changed(distances={"trained": (-1.0).hex(), "initial": (1.0).hex()}), "negative"),
        (changed(distances={"trained": "inf", "initial": (1.0).hex()}), "hexadecimal"),
        (changed(fingerprints=[{}, {}]), "few fields"),
        (changed(fingerprints=["x"]), "few fields"),
        (changed(fingerprints=[{"torch": ["x"]}]), "no short string"),
        (changed(fingerprints=[{"torch": "x" * 2000}]), "no short string"),
        (changed(fingerprints=[dict(HERE)]), "fingerprints that are not there"),
        (changed(fingerprints=[{"n": n} for n in range(65)]), "65 items"),
        (changed_point(pair=[1, 0]), "the smaller number first"),
        (changed_point(pair=[0, 0]), "the smaller number first"),
        (changed_point(pair=[0]), "two numbers"),
        (changed_point(pair=[False, True]), "two numbers"),
        (changed_point(steps=0), "outside 1"),
        (changed_point(first=400), "beyond the steps"),
        (changed_point(parameters=(-1e-9).hex()), "negative"),
        (changed_point(parameters=0), "a string was expected"),
        (changed_point(more="x"), "unknown field"),
        (b" " * (FILE_LIMIT + 1), "the limit is"),
    ],
)
def test_what_is_no_calibration_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        Calibration.decode(data)


@given(st.data())
def test_a_damaged_calibration_is_refused_by_name_or_is_another_one(data: st.DataObject) -> None:
    whole = CALIBRATION.encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255))
    try:
        found = Calibration.decode(whole[:place] + bytes([byte]) + whole[place + 1 :])
    except FormatError:
        return
    assert found.encode() == whole[:place] + bytes([byte]) + whole[place + 1 :]


def test_a_policy_names_its_calibrations(tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_bytes(CALIBRATION.encode())
    (tmp_path / "p.toml").write_text('calibration = ["lab.json"]\naccept_consistent = true\n')
    policy = Policy.read(tmp_path / "p.toml")
    assert policy.calibrations == (CALIBRATION,)
    assert policy.accept_consistent
    assert not Policy().accept_consistent
    (tmp_path / "p.toml").write_text('calibration = ["none.json"]\n')
    with pytest.raises(PolicyError, match="cannot read the calibration"):
        Policy.read(tmp_path / "p.toml")
    (tmp_path / "p.toml").write_text('calibration = ["p.toml"]\n')
    with pytest.raises(PolicyError, match="no calibration"):
        Policy.read(tmp_path / "p.toml")


# Which pairs


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"polchain": "2"}, True),
        ({"python": "3.11.9"}, True),
        ({"python": "3.12.1"}, False),
        ({"torch": "2.13.0+cu130"}, False),
        ({"threads": 4}, False),
        ({"cpu": "Y"}, False),
        ({"onednn": 1}, False),  # to Python, 1 is True
        ({"gpu": "H100"}, False),  # one field more
    ],
)
def test_fingerprints_are_the_same_in_every_field_that_bits_depend_on(changes: dict[str, object], same: bool) -> None:
    assert same_fingerprint(HERE, {**HERE, **changes}) is same  # type: ignore[dict-item]


def test_only_a_calibrated_pair_tolerates_anything() -> None:
    assert isinstance(tolerance_between(CALIBRATION, HERE, THERE), Tolerance), "a pair has no direction"
    elsewhere = {**HERE, "cpu": "Y"}
    for claimed, here, why in (
        (THERE, THERE, "the very setting"),
        (elsewhere, HERE, "does not name the prover's machine"),
        (THERE, elsewhere, "does not name this machine"),
    ):
        found = tolerance_between(CALIBRATION, claimed, here)
        assert isinstance(found, str), f"{claimed} and {here} are no calibrated pair"
        assert why in found
    alone = replace(CALIBRATION, points=(point(0, 1, 0.5, (0, 2)),), fingerprints=(THERE, HERE, elsewhere))
    assert "no measurement between" in str(tolerance_between(alone, THERE, HERE))


def test_only_a_calibration_of_this_recipe_and_these_data_counts() -> None:
    def found(program: Digest, dataset: DatasetRef, calibrations: tuple[Calibration, ...] = (CALIBRATION,)) -> object:
        return find_tolerance(calibrations, program, dataset, THERE, HERE)

    assert isinstance(found(PROGRAM, DATASET), Tolerance)
    assert "no calibration is of this recipe" in str(found(Digest("sha256", bytes(31) + b"x"), DATASET))
    assert "no calibration is of this recipe" in str(found(PROGRAM, replace(DATASET, samples=99)))
    assert "no calibration was given" in str(found(PROGRAM, DATASET, ()))


# tau


@pytest.mark.parametrize(
    ("first", "steps", "noise", "tau"),
    [
        (0, 1, 2e-5, 2e-4),  # early: the largest of steps 0 and 20
        (99, 1, 2e-5, 2e-4),
        (0, 2, 3e-2, 1e-2),  # nothing of two steps was measured: the next longer one, and the cap
        (100, 1, 1e-7, 1e-6),  # late
        (100, 10, 3e-5, 3e-4),
        (390, 10, 3e-5, 3e-4),
    ],
)
def test_tau_is_ten_times_the_largest_honest_error_of_the_phase(
    first: int, steps: int, noise: float, tau: float
) -> None:
    for part in PARTS:
        honest, allowed = tolerance().noise(first, steps), tolerance().tau(first, steps)
        assert honest is not None
        assert allowed is not None
        assert honest.of(part) == noise
        assert allowed.of(part) == pytest.approx(0.1 if part == "optimizer" and tau == 1e-2 else tau)


@pytest.mark.parametrize(("first", "steps"), [(0, 11), (100, 11), (395, 10), (400, 1), (100, 0)])
def test_what_was_not_measured_is_not_covered(first: int, steps: int) -> None:
    assert tolerance().tau(first, steps) is None


def test_tau_is_never_above_the_cap() -> None:
    wild = tolerance(points=tuple(replace(p, errors=Errors.by_part(lambda part: 1e9)) for p in POINTS))
    found = wild.tau(0, 1)
    assert found is not None
    assert {part: found.of(part) for part in PARTS} == CAPS
    assert max(CAPS[part] for part in PARTS if part != "optimizer") == 0.01


def test_where_two_machines_agreed_bit_for_bit_nothing_is_tolerated() -> None:
    found = tolerance(points=(point(0, 10, 0.0), point(100, 10, 0.0))).tau(0, 10)
    assert found == Errors()


def test_the_initial_state_may_differ_in_its_last_bits_at_most() -> None:
    assert tolerance().initial == 0.0
    assert tolerance(initials=(InitialPoint((0, 1), 3e-8),)).initial == pytest.approx(3e-7)
    assert tolerance(initials=(InitialPoint((0, 1), 1.0),)).initial == 1e-6


# Drift

FLAT = (point(0, 10, 1e-4), point(100, 10, 1e-4))


@pytest.mark.parametrize(
    ("memory", "segments", "drift"),
    [
        (0.0, [(100, 10, 2.0)] * 5, 5 * 1e-3 * 2.0),
        # What is planted in moments acts on: 1, 1 + m, 1 + m + m^2, ... with m = 0.9^10
        (0.9, [(100, 10, 1.0)] * 2, 1e-3 * (1 + 1 + 0.9**10)),
        (1.0, [(100, 10, 1.0)] * 4, 1e-3 * (1 + 2 + 3 + 4)),
        # Of a segment that is not covered nothing is tolerated, but what was planted before acts on it too.
        (1.0, [(100, 10, 1.0), (100, 11, 1.0)], 1e-3 * 2),
        (0.0, [(100, 11, 1.0)], 0.0),
    ],
)
def test_what_is_tolerated_adds_up(memory: float, segments: list[tuple[int, int, float]], drift: float) -> None:
    assert tolerance(points=FLAT, memory=memory).drift(segments) == pytest.approx(drift)


@pytest.mark.parametrize("size", [math.inf, math.nan])
def test_an_update_that_is_not_finite_drifts_without_bound(size: float) -> None:
    assert tolerance().drift([(0, 1, 1.0), (1, 1, size)]) == math.inf


def test_a_road_says_its_figures() -> None:
    text = str(Road(PROGRAM, 0.5, 30.0, 10.0))
    assert "could add up to a drift of 0.5, where two trainings end 30 apart and begin 10 apart" in text


# Advice


@pytest.mark.parametrize(
    "schedule", [((0, 10),), ((0, 1), (5, 10)), ((0, 3), (7, 4), (20, 50)), ((0, 100),), ((0, 1), (10, 7))]
)
def test_segments_are_those_of_the_interval_schedule(schedule: tuple[tuple[int, int], ...]) -> None:
    configuration = Configuration(60, 8, schedule, "fp32", True)
    at, wanted = 0, []
    while at < 60:
        end = configuration.next_checkpoint(at)
        wanted.append((at, end - at))
        at = end
    assert segments_of(schedule, 60) == wanted


def test_early_segments_are_to_be_short_and_late_ones_long() -> None:
    found = advise(CALIBRATION, (0, 1))
    assert found.schedule == ((0, 1), (100, 10))
    assert found.every == "0:1,100:10"
    assert found.checkpoints == 100 + 30
    assert 0 < found.drift < 0.1 * (30 - 10)


def test_where_even_single_steps_differ_too_much_only_exact_replay_serves() -> None:
    found = advise(replace(CALIBRATION, points=(point(0, 1, 5e-3), *POINTS[4:])), (0, 1))
    assert found.schedule == ()
    assert found.reason == "early segments of 1 step differ by rho 0.005 of the parameters already; 0.002 would do"


def test_a_schedule_under_which_errors_add_up_is_not_advised() -> None:
    found = advise(replace(CALIBRATION, trained=10.0001), (0, 1))
    assert found.schedule == ()
    assert "may drift by" in found.reason
    assert "adds to the distance of two initialisations (10)" in found.reason


def test_long_segments_measured_only_further_on_say_nothing_about_a_beginning() -> None:
    late = (point(100, 1, 1e-7), point(150, 10, 1e-7))
    assert advise(replace(CALIBRATION, points=(*POINTS[:4], *late)), (0, 1)).schedule == ((0, 1),)


def test_the_late_phase_begins_where_the_fewest_checkpoints_do() -> None:
    assert choose_late(POINTS, 400) == 20
    assert choose_late([point(0, 1, 1e-9), point(0, 10, 0.5), point(50, 10, 1e-9)], 400) == 50
    assert choose_late([point(0, 10, 1e-9), point(50, 10, 1e-9)], 400) == 0
    assert choose_late([point(0, 10, 1e-9)], 400) == 0


# What is measured


@pytest.mark.parametrize("steps", [2, 3, 7, 16, 60, 400, 5000])
@pytest.mark.parametrize("quick", [False, True])
def test_a_plan_opens_at_the_start_and_stays_within_the_run(steps: int, quick: bool) -> None:
    found = plan(steps, quick=quick)
    assert found[0].first == 0
    assert [opening.first for opening in found] == sorted({opening.first for opening in found})
    assert all(opening.ends[-1] <= steps for opening in found)
    assert any(opening.first >= steps // 2 for opening in found) or steps < 4


def test_a_length_that_does_not_fit_twice_is_a_usage_error() -> None:
    assert {k for opening in plan(20, (1, 10)) for k in opening.lengths} == {1, 10}
    with pytest.raises(UsageError, match="two of them do not fit into 20 steps"):
        plan(20, (1, 11))


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_machines_of_a_calibration_differ(capability: str, threads: int) -> None:
    found = machines_here(threads, capability=capability, cuda=False, quick=False)
    assert len({machine.setting for machine in found}) == len({machine.name for machine in found}) == len(found) >= 3
    assert found[0].setting.threads == threads
    gpu = machines_here(threads, capability=capability, cuda=True, quick=False)
    assert gpu[0].setting.cuda
    assert not any(machine.setting.cuda for machine in gpu[1:])
