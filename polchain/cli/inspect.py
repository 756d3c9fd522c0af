"""`polchain status`, `log` and `show`: what is in a run, or in a claim."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polchain.cli import output
from polchain.cli.options import Json, optional_first
from polchain.errors import UsageError

if TYPE_CHECKING:
    from polchain.cli.reading import Log
    from polchain.core.manifest import Manifest
    from polchain.core.rows import Row
    from polchain.prover.status import Anchored, Status

__all__ = ["register"]

SHORT = 12
FLOATS = ("loss", "l2", "linf")
NOT_CHECKED = "as the claim says it; `polchain verify` checks what it says"


def register(app: typer.Typer) -> None:
    """Add `status`, `log` and `show`."""
    app.command("status")(status)
    app.command("log")(log)
    app.command("show")(show)


def status(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="the run's folder", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """say how far a run is, and what is missing."""
    from polchain.prover.status import describe
    from polchain.storage.runs import find_run

    found = describe(find_run(run))
    kept = f"{found.kept} of {found.committed}" + (f", {found.thinned} thinned" if found.thinned else "")
    check = "none: nothing of a foreign run can be replayed"
    if found.self_check is not None:
        check = "no segment was replayed yet"
        if found.self_check:
            check = f"segment {found.self_check} and earlier ones replayed exactly in a fresh process"
    steps = f"{found.step} of {found.steps}" if found.steps is not None else str(found.step)
    rows: list[tuple[str, object]] = [
        ("run", found.path),
        ("kind", "foreign: another program owns the loop" if found.foreign else "recorded"),
        ("key", found.key),
        ("step", steps + (", finished" if found.finished else "")),
        ("entries", found.entries),
        ("states kept", f"{kept}, {output.size(found.bytes)} on disk"),
        ("self-check", check),
        ("seed", found.seed_source or _no_seed_yet(found)),
        ("head", found.root),
        ("anchors", _anchors(found.anchors)),
    ]
    trouble = found.anchors.trouble
    if trouble is not None:
        rows.append(("trouble", f"anchoring does not work since {_moment(trouble.since)}: {trouble.what}"))
    if found.held.commits:
        commits = output.count(found.held.commits, "commit")
        rows.append(("waited", f"{found.held.seconds:.1f} s at {commits}, to be recorded or checked"))
    if found.recipe is not None:
        rows.insert(3, ("recipe", found.recipe))
    rows += [("missing", problem) for problem in found.missing]
    output.answer(found.to_json(), output.fields(rows), as_json=as_json)


def _anchors(found: Anchored) -> str:
    if not found.heads:
        return "none: nothing shows when this run was made"
    counts = []
    for one in found.sources:
        parts = [f"{number} {what}" for number, what in ((one.final, "final"), (one.pending, "pending")) if number]
        counts.append(f"{one.source} {', '.join(parts)}")
    return f"{output.count(found.heads, 'head')}, up to step {found.step}: {'; '.join(counts)}"


def _no_seed_yet(found: Status) -> str:
    if found.foreign:
        return "none"
    if found.beacon is not None:
        return f"from a block of chain {found.beacon}, once it is final: `polchain train RUN --wait-beacon`"
    return "drawn, published by the first step"


def log(
    path: Annotated[
        Path | None, typer.Argument(metavar="[RUN|CLAIM]", help="a run's or a claim's folder", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """list the entries of a log."""
    from polchain.cli.reading import log_at

    with log_at(path) as found:
        if found.is_claim:
            output.note(NOT_CHECKED)
        if as_json:
            entries = [_entry_json(number, data, committed) for number, data, committed in _timed(found)]
            output.answer({"path": str(found.path), "head": _head_json(found), "entries": entries}, "", as_json=True)
            return
        columns = [">entry", "kind", ">step", ">loss", ">update", "state"]
        if next(found.times(0), None) is not None:
            columns.append("committed")
        output.stream(columns, lambda: (row[: len(columns)] for row in _rows(found)))


def _timed(found: Log) -> Iterator[tuple[int, bytes, float | None]]:
    """The entries with their numbers, and when they were committed where that is known."""
    times = found.times(0)
    at, committed = next(times, (-1, 0.0))
    for number, data in enumerate(found.entries()):
        while 0 <= at < number:
            at, committed = next(times, (-1, 0.0))
        yield number, data, committed if at == number else None


def show(
    words: Annotated[
        list[str], typer.Argument(metavar="[RUN|CLAIM] N", help="a run's or a claim's folder; the entry's number")
    ],
    as_json: Json = False,
) -> None:
    """show one entry, and prove that it is in the log."""
    from polchain.cli.reading import log_at
    from polchain.core.entries import CheckpointEntry, leaf_data, parse_entry
    from polchain.core.merkle import check_inclusion

    path, text = optional_first(words, ("RUN|CLAIM", "N"))
    if not (text.isascii() and text.isdecimal()) or len(text) > 15:
        raise UsageError(f"{text} is not the number of an entry", hint="`polchain log` lists them")
    number = int(text)
    with log_at(path) as found:
        data = found.entry(number)
        proof = found.prove(number)
        check_inclusion(leaf_data(data), number, proof, found.head.size, found.head.root)
        entry = parse_entry(data)
        manifest = found.manifest(entry.state) if isinstance(entry, CheckpointEntry) else None
        if found.is_claim:
            output.note(NOT_CHECKED)
        at, committed = next(found.times(number), (-1, 0.0))
        value = _entry_json(number, data, committed if at == number else None)
        value["inclusion"] = {"proof": [f"sha256:{step.hex()}" for step in proof], "head": _head_json(found)}
        if manifest is not None:
            value["manifest"] = [row.to_json() for row in manifest.rows]
        shown = "" if as_json else _show_text(found, number, data, proof, manifest)
    output.answer(value, shown, as_json=as_json)


def _show_text(found: Log, number: int, data: bytes, proof: Sequence[bytes], manifest: Manifest | None) -> str:
    body = json.dumps(_with_decimals(_decoded(data)), indent=2, ensure_ascii=True)
    parts = [
        output.fields(
            [
                ("entry", f"{number} of {found.head.size}"),
                ("leaf hash", _leaf_hash(data)),
                ("head", f"sha256:{found.head.root.hex()}, size {found.head.size}, {found.head.origin}"),
                *[(f"proof {i}", f"sha256:{step.hex()}") for i, step in enumerate(proof)],
                ("checked", "the entry is in the tree that the head signs"),
            ]
        ),
        output.sanitise(body, lines=True),
    ]
    if manifest is not None:
        rows = [_manifest_row(row) for row in manifest.rows]
        parts.append(output.table(["row", "kind", "shape", ">bytes", "value or digest"], rows))
    return "\n\n".join(parts)


def _rows(found: Log) -> Iterator[tuple[object, ...]]:
    from polchain.core.entries import CheckpointEntry, Final, parse_entry

    for number, data, committed in _timed(found):
        entry = parse_entry(data)
        step: object = ""
        loss = update = state = ""
        if isinstance(entry, CheckpointEntry | Final):
            step, state = entry.step, entry.state.hex[:SHORT]
        if isinstance(entry, CheckpointEntry):
            update = f"{entry.update.l2:.4g}" if entry.update is not None else ""
            loss = f"{entry.loss:.4g}" if entry.loss is not None else ""
        yield number, entry.kind, step, loss, update, state, _moment(committed)


def _manifest_row(row: Row) -> tuple[object, ...]:
    from polchain.core.rows import AliasRow, ScalarRow, TensorRow

    if isinstance(row, TensorRow):
        return row.name, f"{row.role} {row.dtype}", "x".join(map(str, row.shape)), row.size, row.digest.hex[:SHORT]
    if isinstance(row, AliasRow):
        return row.name, "alias", "", "", row.target
    if isinstance(row, ScalarRow):
        return row.name, row.type, "", "", repr(row.value) if isinstance(row.value, float) else row.text
    return row.name, "file, unopened", "", row.size, row.digest.hex[:SHORT]


def _entry_json(number: int, data: bytes, committed: float | None) -> dict[str, Any]:
    value: dict[str, Any] = {"number": number, "leaf_hash": _leaf_hash(data), "entry": _decoded(data)}
    if committed is not None:
        value["committed_at"] = committed
    return value


def _leaf_hash(data: bytes) -> str:
    from polchain.core.entries import leaf_data
    from polchain.core.merkle import leaf_hash

    return f"sha256:{leaf_hash(leaf_data(data)).hex()}"


def _decoded(data: bytes) -> Any:
    from polchain.core.encoding import decode
    from polchain.core.entries import ENTRY_LIMIT

    return decode(data, limit=ENTRY_LIMIT, what="entry")


def _with_decimals(value: Any) -> Any:
    """For reading: beside each float, which entries hold in hexadecimal, what it is in decimal."""
    if not isinstance(value, dict):
        return value
    return {
        key: f"{item} = {float.fromhex(item):.6g}" if key in FLOATS and isinstance(item, str) else _with_decimals(item)
        for key, item in value.items()
    }


def _head_json(found: Log) -> dict[str, Any]:
    return {"origin": found.head.origin, "size": found.head.size, "root": f"sha256:{found.head.root.hex()}"}


def _moment(seconds: object) -> str:
    # The sidecar is nobody's evidence: what cannot be a time is not shown as one.
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e11:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
