"""The execution fingerprint: what, besides the program, decides the bits of a training step.

A `Setting` is the part of it that a child process can be given through its environment before torch loads: threads,
instruction sets, the CUDA workspace. The thread *setting* decides, not the cores: a machine with fewer can match.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from polchain.errors import UnavailableError

__all__ = ["FIELDS", "IGNORED", "Setting", "fingerprint", "native_setting", "setting_of", "visible_gpus"]

MAX_THREADS = 512
CUBLAS_WORKSPACE = ":4096:8"
# libgomp's own default spins for milliseconds: ten times slower beside other work on the same cores, and a standstill
# where threads outnumber cores. This many tries are as fast on idle cores.
SPIN_COUNT = "2000"
# Lowest first. torch takes a capability at its word, so only lower ones than the machine's may be asked for.
CAPABILITIES = ("default", "avx2", "avx512")

Fingerprint = Mapping[str, str | int | bool]
_WORD = r"[0-9A-Za-z.+_,-]{0,40}"
IGNORED = frozenset({"polchain", "python"})
# What `differences` may name, and the form that its values have: a CPU's name has at most 48 bytes by x86's CPUID.
FIELDS: Mapping[str, str] = {
    **dict.fromkeys(("torch", "machine", "cpu_capability", "onednn_isa", "blas"), _WORD),
    **dict.fromkeys(("device", "precision", "cuda", "driver", "sdp"), _WORD),
    "cpu": "[0-9A-Za-z.+_,()@/ -]{0,48}",
    "gpu": "[0-9A-Za-z.+_,()@/ -]{0,64}",
    **dict.fromkeys(("onednn", "tf32", "deterministic"), "True|False"),
    **dict.fromkeys(("threads", "cudnn"), "[0-9]{1,9}"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What a replaying process is told before torch loads.

    Attributes:
        threads: intra-op threads.
        capability: ATen's CPU capability, lower-case, or empty for the machine's own.
        onednn_isa: oneDNN's instruction set limit, or empty.
        onednn: whether oneDNN is used at all.
        cuda: whether the run was on a GPU; otherwise none is shown.
    """

    threads: int
    capability: str = ""
    onednn_isa: str = ""
    onednn: bool = True
    cuda: bool = False

    def environment(self) -> dict[str, str]:
        """Environment variables for a child process."""
        threads = str(self.threads)
        variables = {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "CUBLAS_WORKSPACE_CONFIG": CUBLAS_WORKSPACE,
            "GOMP_SPINCOUNT": SPIN_COUNT,
            "POLCHAIN_ONEDNN": "1" if self.onednn else "0",
        }
        if not self.cuda:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        if self.capability and _below_native(self.capability):
            variables["ATEN_CPU_CAPABILITY"] = self.capability
        if self.onednn_isa:
            variables["ONEDNN_MAX_CPU_ISA"] = self.onednn_isa
        return variables

    def others(self) -> tuple[Setting, ...]:
        """Two settings of this machine that compute the same program with other roundings."""
        changed = replace(self, threads=1 if self.threads > 1 else 2)
        return (
            changed,
            replace(self, onednn_isa="AVX2" if self.onednn_isa != "AVX2" else "SSE41", capability="default"),
        )


def setting_of(claimed: Fingerprint) -> Setting:
    """The setting that a claim says it was recorded with.

    Raises:
        UnavailableError: more threads than this verifier is willing to start.
    """
    threads = claimed.get("threads", 1)
    if not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise UnavailableError(f"the run was recorded with {threads!r} threads, which cannot be had here")
    isa = str(claimed.get("onednn_isa", ""))
    return Setting(
        threads=int(threads),
        capability=str(claimed.get("cpu_capability", "")).lower(),
        onednn_isa=isa if isa.replace("_", "").isalnum() and len(isa) < 32 else "",
        onednn=bool(claimed.get("onednn", True)),
        cuda=claimed.get("device") == "cuda",
    )


def native_setting() -> Setting:
    """What torch would choose on this machine, by itself or as the environment asks: threads, capability, a GPU."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability().lower()
    return Setting(torch.get_num_threads(), capability, cuda=torch.cuda.is_available())


def fingerprint(device: str, precision: str) -> dict[str, str | int | bool]:
    """What this process computes with. `device` is a torch device type, `cpu` or `cuda`."""
    import torch

    import polchain

    found: dict[str, str | int | bool] = {
        "polchain": polchain.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "threads": torch.get_num_threads(),
        "onednn": bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
        "onednn_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "blas": torch.__config__.show().partition("BLAS_INFO=")[2].partition(",")[0],
        "precision": precision,
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = int(torch.backends.cudnn.version() or 0)
        found["driver"] = _driver()
        found["sdp"] = ",".join(
            name
            for name, on in (
                ("flash", torch.backends.cuda.flash_sdp_enabled()),
                ("efficient", torch.backends.cuda.mem_efficient_sdp_enabled()),
                ("math", torch.backends.cuda.math_sdp_enabled()),
            )
            if on
        )
    return found


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them; none without one."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(str(number) for number in range(count))
    return tuple(part.strip() for part in named.split(",") if part.strip())[:count]


def differences(claimed: Fingerprint, here: Fingerprint) -> list[str]:
    """What differs between two fingerprints and may change bits, as short sentences."""
    return [
        f"{name}: recorded with {claimed.get(name)}, here {here.get(name)}"
        for name in sorted(claimed.keys() | here.keys())
        if name not in IGNORED and claimed.get(name) != here.get(name)
    ]


def _below_native(capability: str) -> bool:
    native = "default"
    if sys.platform == "linux" and platform.machine() == "x86_64":
        flags = _cpuinfo("flags").split()
        native = "avx512" if "avx512f" in flags else "avx2" if "avx2" in flags else "default"
    if capability not in CAPABILITIES:
        return False
    return CAPABILITIES.index(capability) < CAPABILITIES.index(native)


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        pass
    return ""


def _driver() -> str:
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return ""
