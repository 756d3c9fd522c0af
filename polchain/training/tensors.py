"""Tensors as plain bytes, and back: their names for dtypes, and no kind of tensor that has no bytes of its own."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from polchain.errors import ManifestError, RecipeError

__all__ = ["DTYPE_NAMES", "TORCH_DTYPES", "dtype_name", "raw_bytes", "tensor_bytes", "tensor_from"]

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16", torch.uint16: "U16", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int32: "I32", torch.uint32: "U32", torch.float32: "F32",
    torch.float64: "F64", torch.int64: "I64", torch.uint64: "U64", torch.complex64: "C64",
}  # fmt: skip
TORCH_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def dtype_name(tensor: torch.Tensor, what: str) -> str:
    """The dtype's name in a manifest.

    Raises:
        RecipeError: a dtype or a kind of tensor (sparse, quantized, meta, distributed) that has no plain bytes.
    """
    if (
        tensor.layout is not torch.strided
        or tensor.is_meta
        or tensor.is_quantized
        or type(tensor).__name__ == "DTensor"
        or is_lazy(tensor)
    ):
        raise RecipeError(
            f"{what} is a {type(tensor).__name__} of layout {tensor.layout}, which polchain cannot record"
        )
    if tensor.dtype not in DTYPE_NAMES:
        raise RecipeError(f"{what} has dtype {tensor.dtype}, which polchain cannot record")
    return DTYPE_NAMES[tensor.dtype]


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The contiguous little-endian bytes of a tensor, on the CPU; shares memory where it can."""
    flat = raw_bytes(tensor.detach()).cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    if not flat.numel():
        return memoryview(b"")
    array: Any = flat.numpy()
    return memoryview(array).cast("B")


def tensor_from(data: memoryview | bytearray, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The CPU tensor of these bytes; shares their memory.

    Raises:
        ManifestError: the length does not fit.
    """
    kind = TORCH_DTYPES[dtype]
    try:
        if len(data) == 0:
            return torch.empty(0, dtype=kind).reshape(shape)
        with warnings.catch_warnings():
            # A read-only mapping is fine: these tensors are only ever read.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            return torch.frombuffer(data, dtype=torch.uint8).view(kind).reshape(shape)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ManifestError(f"{len(data)} bytes are not a {dtype} tensor of shape {list(shape)}") from error


def raw_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that copies as it is: of truth values torch makes 0 and 1, and a byte of 255 is true as well."""
    return tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor
