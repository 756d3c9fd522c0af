"""`polchain init`: a run's beginning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polchain.cli import output
from polchain.cli.ethereum import (
    Account,
    Keystore,
    KeystorePassphraseFd,
    KeystorePassphraseFile,
    MaxFee,
    NetworkName,
    Rpc,
)
from polchain.cli.launching import Script, prepare, run_apart
from polchain.cli.options import Data, DataSecretFile, Json, KeyFile, PassphraseFd, PassphraseFile, load_key, read_task
from polchain.cli.publishing import (
    Publisher,
    address_half,
    orders_for,
    publisher_of,
)
from polchain.cli.running import Arguments, Folder, Module, Recipe, StoreEvery, data_of, run_exists
from polchain.cli.trust import public_key
from polchain.errors import AnchorUnavailableError, UsageError

if TYPE_CHECKING:
    from polchain.prover.anchoring import Published
    from polchain.prover.preregister import AddressHalf

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `init`."""
    app.command("init")(init)


def init(
    run: Folder,
    arguments: Arguments = None,
    recipe: Recipe = None,
    module: Module = False,
    foreign: Annotated[
        bool, typer.Option("--foreign", help="polchain will not own the loop: log checkpoints with `commit`")
    ] = False,
    task: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="what was ordered: recipe, data, configuration and seed are the task's",
            show_default=False,
        ),
    ] = None,
    recovery_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="the public key, or its file, that may revoke the run's: keep its private half apart",
            show_default=False,
        ),
    ] = None,
    private_data: Annotated[
        bool,
        typer.Option("--private-data", help="salt the commitment to the data: it then confirms no guess at a sample"),
    ] = False,
    data_secret: DataSecretFile = None,
    store_every: StoreEvery = None,
    anchor: Annotated[
        bool, typer.Option("--anchor", help="publish the genesis at once; the seed then comes from a block after it")
    ] = False,
    network: NetworkName = None,
    rpc: Rpc = None,
    keystore: Keystore = None,
    keystore_passphrase_file: KeystorePassphraseFile = None,
    keystore_passphrase_fd: KeystorePassphraseFd = None,
    account: Account = None,
    max_fee: MaxFee = None,
    key_file: KeyFile = None,
    data: Data = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    as_json: Json = False,
) -> int:
    """begin a run: sign its program and data before any step."""
    if foreign == (recipe is not None):
        raise UsageError("init needs --recipe SCRIPT or --foreign, one of them")
    if run_exists(run):
        raise UsageError(f"there is a run at {run} already", hint="choose another folder; `polchain train RUN` goes on")
    if task is not None and (foreign or anchor):
        raise UsageError(
            "--task goes with --recipe, and not with --anchor: the seed is the task's, no beacon's",
            hint=f"`polchain anchor {run}` publishes the heads of any run",
        )
    ordered = read_task(task).encode().decode() if task is not None else ""
    recovery = str(public_key("--recovery-key", recovery_key)) if recovery_key is not None else ""
    if foreign and (arguments or module or data is not None or private_data or data_secret is not None):
        raise UsageError("--foreign takes no script, arguments or data")
    if foreign and store_every is not None:
        raise UsageError("--foreign takes no --store-every")
    if private_data and data_secret is not None:
        raise UsageError("--private-data draws a secret, --data-secret gives one: one of them")
    if data_secret is not None:
        from polchain.storage.secretfile import read_secret

        read_secret(data_secret)  # what is wrong with it is said before anything is run
    script = Script(recipe or "", module, tuple(arguments or ()))
    if not foreign:
        prepare(script, key_file, data_of(run, data), passphrase_file, passphrase_fd)
    publisher = publisher_of(
        run, network, rpc, keystore, keystore_passphrase_file, keystore_passphrase_fd, account, max_fee, needed=anchor
    )
    if anchor and publisher is not None:
        publisher.try_it()
    half = address_half(publisher, run, key_file, beacon=anchor and not foreign)
    if foreign:
        said = _init_foreign(run, half, publisher, recovery, key_file, passphrase_file, passphrase_fd)
    else:
        orders = orders_for(
            "init", as_json, script, half, publisher,
            task=ordered, recovery=recovery, private=private_data, data_secret=data_secret,
        )  # fmt: skip
        code, answer = run_apart(replace(orders, store_every=store_every or 0), run, script)
        if code != 0:
            if answer:
                output.relay(answer)
            return code
        said = json.loads(answer)
    published = None
    if anchor and publisher is not None:
        output.note("the genesis is written; it is being published")
        published = _publish(run, publisher)
    _answer_init(run, said, half, published, as_json)
    return 0


def _init_foreign(
    run: Path,
    half: AddressHalf | None,
    publisher: Publisher | None,
    recovery: str,
    key_file: Path | None,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
) -> dict[str, Any]:
    from polchain.core.keys import PublicKey
    from polchain.prover.settings import RunSettings

    settings = RunSettings.read(run)
    settings = replace(settings, key_file=key_file or settings.key_file)
    if publisher is not None:
        settings = settings.with_network(publisher.settings())
    key = load_key(run, settings.key_file, passphrase_file, passphrase_fd)
    # After the passphrase: this loads torch, and nobody waits for a prompt.
    from polchain.prover.foreign import init_foreign

    other = PublicKey.parse(recovery) if recovery else None
    with init_foreign(run, key, settings=settings, address=half, recovery=other) as ledger:
        return {
            "run": str(run.absolute()),
            "run_id": ledger.genesis.run_id.hex(),
            "public_key": str(key.public),
            "head": {"size": ledger.size, "root": str(ledger.root)},
        }


def _publish(run: Path, publisher: Publisher) -> Published:
    from polchain.prover.anchoring import publish_head

    try:
        return publish_head(run, 1, publisher.anchor)
    except AnchorUnavailableError as error:
        raise AnchorUnavailableError(
            f"the genesis is written, but not published: {error}", hint=f"`polchain anchor {run}` publishes it"
        ) from error


def _answer_init(
    run: Path, said: dict[str, Any], half: AddressHalf | None, published: Published | None, as_json: bool
) -> None:
    samples = said.pop("samples", 0)
    rows: list[tuple[str, object]] = [
        ("run", run),
        ("key", said["public_key"]),
        ("recipe", said.get("recipe", "none: a foreign run")),
        *([("dataset", f"{output.count(samples, 'sample')}, {said['dataset']}")] if "dataset" in said else []),
        *([("data secret", said["data_secret"])] if "data_secret" in said else []),
        ("head", said["head"]["root"]),
    ]
    if half is not None:
        said["address"] = f"0x{half.address.hex()}"
        rows.append(("address", said["address"]))
    if published is not None:
        from polchain.cli.receipts import published_json, published_rows

        said["anchor"] = published_json(published)
        rows += published_rows(published)[1:]  # the run is said above
    output.answer(said, output.fields(rows), as_json=as_json)
    if "data_secret" in said:
        output.note(
            "the data is private: keep a copy of its secret as you keep your key; without it the run cannot go on, "
            "and nobody can replay it"
        )
    if published is not None and "recipe" in said:
        output.note(f"the seed comes from the block 64 after: `polchain train {run} --wait-beacon` waits for it")
