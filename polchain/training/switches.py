"""torch's global switches, which decide a training's bits: what `record` sets them to, and what they were before."""

from __future__ import annotations

import os

import torch

from polchain.core.genesis import Configuration
from polchain.errors import UnavailableError
from polchain.training.fingerprint import CUBLAS_WORKSPACE

__all__ = ["Switches", "set_switches"]


class Switches:
    """The switches as they are now."""

    def __init__(self) -> None:
        self.deterministic = torch.are_deterministic_algorithms_enabled()
        self.warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        self.benchmark = torch.backends.cudnn.benchmark
        self.matmul = torch.backends.cuda.matmul.allow_tf32
        self.cudnn = torch.backends.cudnn.allow_tf32
        self.dtype = torch.get_default_dtype()

    def restore(self) -> None:
        """Set them to what they were."""
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.backends.cudnn.benchmark = self.benchmark
        torch.backends.cuda.matmul.allow_tf32 = self.matmul
        torch.backends.cudnn.allow_tf32 = self.cudnn
        torch.set_default_dtype(self.dtype)


def set_switches(configuration: Configuration) -> None:
    """Have torch compute as the configuration asks: the same bits each time.

    Raises:
        UnavailableError: CUDA is in use already, in a way that would not give the same bits again.
    """
    if torch.cuda.is_available() and os.environ.get("CUBLAS_WORKSPACE_CONFIG") != CUBLAS_WORKSPACE:
        if torch.cuda.is_initialized():
            raise UnavailableError(
                "CUDA is in use without a fixed cuBLAS workspace, so that steps would not replay",
                hint=f"export CUBLAS_WORKSPACE_CONFIG={CUBLAS_WORKSPACE} before starting Python",
            )
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = CUBLAS_WORKSPACE
    # To set the number of threads, even to what it is, also switches off MKL's own choice. Making batches sets it, but
    # not where a loader's workers make them: so it is always set.
    torch.set_num_threads(torch.get_num_threads())
    torch.use_deterministic_algorithms(configuration.deterministic)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = configuration.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = configuration.precision == "tf32"
    if configuration.precision == "fp64":
        torch.set_default_dtype(torch.float64)
