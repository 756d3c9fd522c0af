"""A training state by reference: its tensors under their names, who shares them, and scalars.

Captured      live tensors
Outline       the same without bytes: what a copy of them is made into a manifest with
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from polchain.core.digest import Digest
from polchain.core.manifest import Manifest
from polchain.core.rows import MAX_INT, MAX_NAME, MAX_TEXT, AliasRow, Row, Scalar, ScalarRow, TensorRow
from polchain.errors import RecipeError
from polchain.training.tensors import DTYPE_NAMES, dtype_name

__all__ = ["Captured", "Outline"]


@dataclass(frozen=True, slots=True)
class Outline:
    """A training state without its bytes, by value.

    Attributes:
        tensors: role, dtype and shape by name.
        aliases: the names that share another's tensor.
        scalars: the rest.
    """

    tensors: Mapping[str, tuple[str, str, tuple[int, ...]]]
    aliases: Mapping[str, str]
    scalars: Mapping[str, Scalar]

    def rows(self, digests: Mapping[str, Digest]) -> Manifest:
        """The manifest, given the digest of each tensor."""
        rows: list[Row] = [
            TensorRow(name, role, dtype, shape, digests[name]) for name, (role, dtype, shape) in self.tensors.items()
        ]
        rows += [AliasRow(name, target) for name, target in self.aliases.items()]
        rows += [ScalarRow(name, value) for name, value in self.scalars.items()]
        return Manifest.of(rows)


@dataclass(slots=True)
class Captured:
    """A training state by reference: live tensors, who shares them, and scalars."""

    tensors: dict[str, tuple[str, torch.Tensor]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    scalars: dict[str, Scalar] = field(default_factory=dict)
    _seen: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def add(self, name: str, role: str, tensor: torch.Tensor) -> None:
        """Add a tensor, or an alias where its very memory was added to this group before."""
        self._check_name(name)
        dtype_name(tensor, name)
        if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            raise RecipeError(f"{name} is an expanded tensor: its elements share memory", hint="attach .contiguous()")
        if tensor.numel():
            identity = (
                name.partition("/")[0],
                tensor.device,
                tensor.data_ptr(),
                tensor.dtype,
                tensor.shape,
                tensor.stride(),
            )
            if identity in self._seen:
                self.aliases[name] = self._seen[identity]
                return
            self._seen[identity] = name
        self.tensors[name] = (role, tensor)

    def scalar(self, name: str, value: object) -> None:
        """Add a number, a string or None.

        Raises:
            RecipeError: it is something else; its type is named.
        """
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if not isinstance(value, bool | int | float | str | None):
            raise RecipeError(
                f"{name} is a {type(value).__module__}.{type(value).__qualname__}, neither tensor nor number",
                hint="what crosses steps must be tensors and numbers",
            )
        self._check_name(name)
        # Subclasses (numpy's float64 is a float) would not re-encode: keep the plain value.
        plain = value if value is None else next(t(value) for t in (bool, int, float, str) if isinstance(value, t))
        if (isinstance(plain, str) and len(plain) > MAX_TEXT) or (isinstance(plain, int) and abs(plain) >= MAX_INT):
            raise RecipeError(f"{name} is too long a {type(plain).__name__} to record")
        self.scalars[name] = plain

    def _check_name(self, name: str) -> None:
        if name in self.tensors or name in self.aliases or name in self.scalars:
            raise RecipeError(f"two parts of the training state are both named {name}")
        if len(name) > MAX_NAME or not name.isprintable():
            raise RecipeError(f"the name {name[:80]!r} is too long or does not print")

    def outline(self) -> Outline:
        """The same by value, but for the bytes."""
        tensors = {name: (role, DTYPE_NAMES[t.dtype], tuple(t.shape)) for name, (role, t) in self.tensors.items()}
        return Outline(tensors, self.aliases, self.scalars)

    def rows(self, digests: Mapping[str, Digest]) -> Manifest:
        """The manifest, given the digest of each tensor."""
        return self.outline().rows(digests)
