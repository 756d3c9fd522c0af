"""A run's own settings: `polchain.toml` in its folder.

    key_file = "/home/me/.config/polchain/key"     the private key, by path; the key itself is never copied
    script = "/home/me/train.py"                   what `polchain train` runs
    module = false
    arguments = ["--lr", "0.1"]
    data = "/home/me/data"                         what polchain.data_dir() names

A flag goes before `POLCHAIN_*`, which goes before this file, which goes before the default.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from polchain.errors import UsageError
from polchain.storage.checkpoints import write_durably
from polchain.storage.keyfile import default_key_file
from polchain.storage.ledger import SETTINGS

__all__ = ["RunSettings"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run remembers about its surroundings. Nothing of it is evidence."""

    key_file: Path
    script: str = ""
    module: bool = False
    arguments: tuple[str, ...] = ()
    data: Path | None = None

    @classmethod
    def read(cls, folder: Path) -> RunSettings:
        """The settings of a run; defaults where it has none yet.

        Raises:
            UsageError: `polchain.toml` cannot be parsed.
        """
        path = folder / SETTINGS
        values: dict[str, object] = {}
        if path.exists():
            try:
                values = tomllib.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise UsageError(f"cannot read {path}: {error}") from error
        key_file = os.environ.get("POLCHAIN_KEY_FILE") or values.get("key_file")
        data = os.environ.get("POLCHAIN_DATA") or values.get("data")
        arguments = values.get("arguments", [])
        if not isinstance(arguments, list):
            raise UsageError(f"{path}: arguments is not a list")
        return cls(
            key_file=Path(str(key_file)) if key_file else default_key_file(),
            script=str(values.get("script", "")),
            module=bool(values.get("module", False)),
            arguments=tuple(str(item) for item in arguments),
            data=Path(str(data)) if data else None,
        )

    def write(self, folder: Path) -> None:
        """Write `polchain.toml`; an existing one is left alone, since it is the user's to edit."""
        path = folder / SETTINGS
        if path.exists():
            return
        lines = [f"key_file = {_toml(str(self.key_file.resolve()))}"]
        if self.script:
            lines += [f"script = {_toml(self.script)}", f"module = {str(self.module).lower()}"]
            lines.append(f"arguments = [{', '.join(_toml(word) for word in self.arguments)}]")
        if self.data is not None:
            lines.append(f"data = {_toml(str(self.data.resolve()))}")
        write_durably(path, ("\n".join(lines) + "\n").encode())


def _toml(text: str) -> str:
    """A TOML basic string. JSON's escapes are TOML's, but for surrogate pairs and an unescaped DEL.

    Raises:
        UsageError: a name that is no text (bytes that are not UTF-8) has no place in TOML.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!a} cannot be kept in {SETTINGS}: it is not UTF-8", hint="rename it") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
