"""The execution fingerprint, and the part of it that a child process can be given."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from polchain.core.digest import sha256
from polchain.core.entries import Start, encode_entry, parse_entry
from polchain.errors import UnavailableError
from polchain.training import fingerprint as module
from polchain.training.fingerprint import FIELDS, IGNORED, MAX_THREADS, Setting, differences, fingerprint, setting_of


def test_a_fingerprint_fits_into_a_start_entry() -> None:
    found = fingerprint("cpu", "fp32")
    start = Start(sha256(b""), "prover", bytes(32), found)
    assert parse_entry(encode_entry(start)) == start
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert found["cpu"], "the CPU has no name"
    assert "gpu" not in found
    for name, value in found.items():
        assert name in IGNORED or re.fullmatch(FIELDS[name], str(value)), (
            f"{name} {value} would not pass in a certificate"
        )


def test_this_machine_does_not_differ_from_itself() -> None:
    assert differences(fingerprint("cpu", "fp32"), fingerprint("cpu", "fp32")) == []


def test_what_may_change_bits_is_named_and_the_rest_is_not() -> None:
    here = fingerprint("cpu", "fp32")
    there = here | {"threads": 99, "polchain": "0.0.0", "python": "3.0.0"}
    assert differences(there, here) == [f"threads: recorded with 99, here {here['threads']}"]
    assert differences(here | {"gpu": "H100"}, here) == ["gpu: recorded with H100, here None"]
    assert any("precision" in line for line in differences(fingerprint("cpu", "bf16"), here))


def test_determinism_is_part_of_it() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        assert fingerprint("cpu", "fp32")["deterministic"] is True
    finally:
        torch.use_deterministic_algorithms(False)
    assert fingerprint("cpu", "fp32")["deterministic"] is False


def test_a_setting_is_what_a_claim_was_recorded_with() -> None:
    claimed = {"threads": 3, "cpu_capability": "AVX2", "onednn_isa": "AVX2", "onednn": False, "cpu": "another"}
    assert setting_of(claimed) == Setting(3, "avx2", "AVX2", False)
    assert setting_of({}) == Setting(1)


@pytest.mark.parametrize("threads", [0, -1, MAX_THREADS + 1, "2", 2**60])
def test_threads_that_cannot_be_had_are_refused(threads: Any) -> None:
    with pytest.raises(UnavailableError, match="threads, which cannot be had here"):
        setting_of({"threads": threads})


@pytest.mark.parametrize("isa", ["$(reboot)", "a\nb", "AVX2;", "A" * 40, "\0"])
def test_an_instruction_set_that_is_none_never_reaches_the_environment(isa: str) -> None:
    setting = setting_of({"threads": 1, "onednn_isa": isa, "cpu_capability": isa})
    assert "ONEDNN_MAX_CPU_ISA" not in setting.environment()
    assert "ATEN_CPU_CAPABILITY" not in setting.environment()


def test_the_environment_fixes_the_threads() -> None:
    variables = Setting(2).environment()
    assert (variables["OMP_NUM_THREADS"], variables["MKL_NUM_THREADS"]) == ("2", "2")
    assert variables["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "ATEN_CPU_CAPABILITY" not in variables
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in variables.items())
    # More threads than cores that spin while they wait stall for minutes.
    assert int(variables["GOMP_SPINCOUNT"]) > 0


@pytest.mark.parametrize(
    ("flags", "capability", "asked"),
    [
        ("avx2 avx512f", "avx2", "avx2"),
        ("avx2 avx512f", "default", "default"),
        ("avx2 avx512f", "avx512", None),
        ("avx2", "avx512", None),
        ("avx2", "avx2", None),
        ("avx2", "nonsense", None),
        ("", "avx2", None),
    ],
)
def test_only_a_lower_capability_than_the_machines_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, flags: str, capability: str, asked: str | None
) -> None:
    # torch takes a capability at its word: asked for one that the CPU has not, it dies of an illegal instruction.
    monkeypatch.setattr(module, "_cpuinfo", lambda key: flags if key == "flags" else "")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.platform", "linux")
    assert Setting(1, capability).environment().get("ATEN_CPU_CAPABILITY") == asked


@pytest.mark.parametrize("setting", [Setting(1), Setting(2), Setting(8, onednn_isa="AVX2")])
def test_the_other_settings_are_two_and_differ(setting: Setting) -> None:
    others = setting.others()
    assert len({setting, *others}) == 3
    assert all(other.environment() != setting.environment() for other in others)
