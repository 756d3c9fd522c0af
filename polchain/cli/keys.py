"""`polchain keygen` and `polchain rekey`: the key that signs, and what comes after it."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from polchain.cli import output
from polchain.cli.options import Json, KeyFile, PassphraseFd, PassphraseFile, load_key, passphrase_source
from polchain.errors import KeyUnavailableError, UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `keygen` and `rekey`."""
    app.command("keygen")(keygen)
    app.command("rekey")(rekey)


def keygen(
    key_file: KeyFile = None,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="leave the key unencrypted")] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    as_json: Json = False,
) -> None:
    """make the key that signs your runs."""
    from polchain.core.keys import PrivateKey
    from polchain.storage.keyfile import default_key_file, write_key

    if no_passphrase and (passphrase_file is not None or passphrase_fd is not None):
        raise UsageError("--no-passphrase and a passphrase: one of them")
    path = key_file or default_key_file()
    if path.exists():
        # Before anybody types a passphrase.
        raise UsageError(f"there is a file at {path} already", hint="name another one with --key-file, or move it away")
    passphrase = None if no_passphrase else _new_passphrase(path, passphrase_file, passphrase_fd)
    key = PrivateKey.generate()
    write_key(path, key, passphrase)
    if passphrase is None:
        output.note("the key is not encrypted: whoever reads the file signs as you")
    public = key.public
    output.answer(
        {
            "public_key": str(public),
            "fingerprint": public.fingerprint,
            "key_file": str(path.absolute()),
            "public_key_file": f"{path.absolute()}.pub",
            "encrypted": passphrase is not None,
        },
        output.fields(
            [
                ("public key", public),
                ("fingerprint", public.fingerprint),
                ("private half", f"{path}: never leaves this machine"),
                ("public half", f"{path}.pub: give it to whoever verifies"),
            ]
        ),
        as_json=as_json,
    )


def rekey(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="the run's folder [POLCHAIN_RUN]", show_default=False)
    ] = None,
    rotate: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="sign with this key from now on: a public key, or its file", show_default=False
        ),
    ] = None,
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="the key in force counts no more; sign with the recovery key, if there is one"),
    ] = False,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    as_json: Json = False,
) -> None:
    """change the key that signs a run's log, or revoke it."""
    from polchain.cli.trust import public_key
    from polchain.core.entries import KeyChange
    from polchain.storage.ledger import Ledger
    from polchain.storage.runs import find_run

    if (rotate is None) != revoke:
        raise UsageError("rekey needs --rotate KEY or --revoke, one of them")
    folder = find_run(run)
    new = public_key("--rotate", rotate) if rotate is not None else None
    key = load_key(folder, key_file, passphrase_file, passphrase_fd)
    with Ledger(folder, key) as ledger:
        change = KeyChange(
            ledger.root, "rotate" if new is not None else "revoke", new or ledger.keys.signer(ledger.size + 1)
        )
        head = ledger.append(change)
    said = f"{change.kind} {change.key}"
    data = {"run": str(folder), "change": change.kind, "key": str(change.key), "size": head.size}
    output.answer(data, output.fields([("run", folder), ("entry", f"{head.size - 1}: {said}")]), as_json=as_json)
    output.note(f"it counts from when it is published: `polchain anchor {folder}`")


def _new_passphrase(path: Path, file: Path | None, descriptor: int | None) -> bytes:
    passphrase = passphrase_source(file, descriptor).given()
    if passphrase is None:
        if not sys.stdin.isatty():
            raise KeyUnavailableError(
                "no passphrase, and no terminal to ask for one",
                hint="--passphrase-file FILE, --passphrase-fd N, or --no-passphrase for an unencrypted key",
            )
        try:
            passphrase = getpass.getpass(f"new passphrase for {output.sanitise(str(path))}: ").encode()
            if passphrase and getpass.getpass("again: ").encode() != passphrase:
                raise UsageError("the two passphrases are not the same", hint="nothing was written: try again")
        except EOFError as error:
            raise KeyUnavailableError("no passphrase was typed") from error
    if not passphrase:
        raise UsageError("the passphrase is empty", hint="--no-passphrase makes an unencrypted key")
    return passphrase
