"""A run's own settings: `polchain.toml` in its folder.

    key_file = "/home/me/.config/polchain/key"     the private key, by path; the key itself is never copied
    script = "/home/me/train.py"                   what `polchain train` runs
    module = false
    arguments = ["--lr", "0.1"]
    data = "/home/me/data"                         what polchain.data_dir() names
    network = "sepolia"                            where `polchain anchor` publishes
    rpc = "https://..."                            that network's node; may hold a secret, so the file is 0600 then
    keystore = "/home/me/wallet.json"              who pays: an encrypted keystore,
    account = "0x..."                              or an account that the node signs for
    tsa = ["https://tsa.example.org"]              time-stamping authorities, asked besides
    store_every = 100                              steps from one stored state to the next; else every state is

A flag goes before `POLCHAIN_*`, which goes before this file, which goes before the default.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from polchain.errors import UsageError
from polchain.storage.checkpoints import write_durably
from polchain.storage.keyfile import default_key_file
from polchain.storage.runs import SETTINGS

__all__ = ["RunSettings"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run remembers about its surroundings. Nothing of it is evidence."""

    key_file: Path
    script: str = ""
    module: bool = False
    arguments: tuple[str, ...] = ()
    data: Path | None = None
    network: str = ""
    rpc: str = ""
    keystore: Path | None = None
    account: str = ""
    tsa: tuple[str, ...] = ()
    store_every: int = 0

    @classmethod
    def read(cls, folder: Path) -> RunSettings:
        """The settings of a run; defaults where it has none yet.

        `POLCHAIN_*` goes before the file, but for the node's address: whoever connects looks that up, because what
        was read may be written to a new run, and an address from the environment is not to be.

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
        own_network = str(values.get("network", ""))
        network = os.environ.get("POLCHAIN_NETWORK") or own_network
        payer = os.environ.get("POLCHAIN_KEYSTORE"), os.environ.get("POLCHAIN_ACCOUNT")
        keystore, account = payer if any(payer) else (values.get("keystore"), values.get("account"))
        return cls(
            key_file=Path(str(key_file)) if key_file else default_key_file(),
            script=str(values.get("script", "")),
            module=bool(values.get("module", False)),
            arguments=_words(values, "arguments", path),
            data=Path(str(data)) if data else None,
            network=network,
            # The node of one network is none of another.
            rpc=str(values.get("rpc", "")) if network == own_network or not own_network else "",
            keystore=Path(str(keystore)) if keystore else None,
            account=str(account or ""),
            tsa=_words(values, "tsa", path),
            store_every=_steps(values, path),
        )

    def with_network(self, said: Mapping[str, str]) -> RunSettings:
        """The same, with what is said of `network`, `rpc`, `keystore` and `account`; the rest of them is left out."""
        keystore = said.get("keystore")
        return replace(
            self,
            network=said.get("network", ""),
            rpc=said.get("rpc", ""),
            keystore=Path(keystore) if keystore else None,
            account=said.get("account", ""),
        )

    def write(self, folder: Path) -> None:
        """Write `polchain.toml`; an existing one is left alone, since it is the user's to edit."""
        path = folder / SETTINGS
        if path.exists():
            return
        lines = [f"key_file = {_toml(str(self.key_file.resolve()))}"]
        if self.script:
            lines += [f"script = {_toml(self.script)}", f"module = {str(self.module).lower()}"]
            lines.append(f"arguments = {_list(self.arguments)}")
        if self.data is not None:
            lines.append(f"data = {_toml(str(self.data.resolve()))}")
        for name, text in (("network", self.network), ("rpc", self.rpc), ("account", self.account)):
            if text:
                lines.append(f"{name} = {_toml(text)}")
        if self.keystore is not None:
            lines.append(f"keystore = {_toml(str(self.keystore.resolve()))}")
        if self.tsa:
            lines.append(f"tsa = {_list(self.tsa)}")
        if self.store_every:
            lines.append(f"store_every = {self.store_every}")
        # The address of a node often holds the key of an account with whoever runs it.
        write_durably(path, ("\n".join(lines) + "\n").encode(), mode=0o600 if self.rpc else 0o666)


def _words(values: Mapping[str, object], name: str, path: Path) -> tuple[str, ...]:
    words = values.get(name, [])
    if not isinstance(words, list):
        raise UsageError(f"{path}: {name} is not a list")
    return tuple(str(word) for word in words)


def _steps(values: Mapping[str, object], path: Path) -> int:
    steps = values.get("store_every", 0)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise UsageError(f"{path}: store_every is not a number of steps")
    return steps


def _list(words: tuple[str, ...]) -> str:
    return f"[{', '.join(_toml(word) for word in words)}]"


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
