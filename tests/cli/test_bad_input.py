"""Whatever lies where a run, a ledger, a claim or a key should: a named error, never a traceback, never a bug."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Done

Call = Callable[..., Done]


def check(done: Done, what: object, *, may_pass: bool = False) -> None:
    assert done.code in ((0, 1, 2, 4) if may_pass else (1, 2, 4)), (what, done)
    assert "Traceback" not in done.out + done.err
    assert (done.out + done.err).replace("\n", "").isprintable(), what
    if done.code in (2, 4) or (done.code == 1 and not done.out):
        assert done.err.startswith("polchain: "), (what, done)


def commands(path: Path, out: Path) -> list[list[object]]:
    return [
        ["status", path],
        ["log", path],
        ["show", path, 2],
        ["export", path, out],
        ["fsck", path],
        ["fsck", "--repair", path],
    ]


def damaged(source: bytes, random_source: random.Random) -> bytes:
    data = bytearray(source)
    kind = random_source.randrange(4)
    if kind == 0:
        for _ in range(random_source.choice((1, 1, 20, 400))):
            data[random_source.randrange(len(data))] ^= 1 << random_source.randrange(8)
    elif kind == 1:
        del data[random_source.randrange(len(data)) :]
    elif kind == 2:
        return random_source.randbytes(random_source.choice((0, 1, 100, 5000)))
    else:
        at = random_source.randrange(len(data))
        data[at : at + 64] = random_source.randbytes(64)
    return bytes(data)


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_run(seed: int, run: Path, tmp_path: Path, call: Call) -> None:
    chosen = random.Random(seed)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "lock")
    # The ledger is where the parsing is.
    victim = chosen.choice([*files, *[run / "ledger.db"] * len(files)])
    victim.write_bytes(damaged(victim.read_bytes() or b"x", chosen))
    for words in commands(run, tmp_path / "out"):
        check(call(*words), (seed, victim, words), may_pass=True)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_claim(seed: int, claim: Path, call: Call) -> None:
    chosen = random.Random(seed)
    victim = chosen.choice(sorted(path for path in claim.rglob("*") if path.is_file()))
    before = victim.read_bytes()
    victim.write_bytes(damaged(before, chosen))
    if victim.read_bytes() == before:
        return
    for words in (["log", claim], ["show", claim, 2]):
        # Only `verify` reads the tensors.
        check(call(*words), (seed, victim, words), may_pass=victim.parent.name == "checkpoints")


@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_as_anything(seed: int, tmp_path: Path, call: Call) -> None:
    chosen = random.Random(seed)
    noise = chosen.randbytes(chosen.choice((0, 1, 4096, 100_000)))
    (tmp_path / "file").write_bytes(noise)
    for name in ("ledger.db", "claim.json", "polchain.toml"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(noise)
        for words in commands(folder, tmp_path / "out"):
            check(call(*words), (seed, words))
    for words in commands(tmp_path / "file", tmp_path / "out"):
        check(call(*words), (seed, words))


@pytest.mark.parametrize(
    "noise", [b"", b"\0" * 100, b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"\xff" * 70_000], ids=len
)
def test_random_bytes_as_a_key(noise: bytes, tmp_path: Path, call: Call) -> None:
    key, checkpoint = tmp_path / "key", tmp_path / "model.pt"
    key.write_bytes(noise)
    key.chmod(0o600)
    checkpoint.write_bytes(b"weights")
    check(call("init", tmp_path / "run", "--foreign", "--key-file", key), noise[:10])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    [
        "key_file = 7\n",
        "arguments = 7\n",
        "script = []",
        "= broken",
        "data = '/nowhere'",
        "\x00",
        "[key_file]",
        "[" * 5000,
    ],
)
def test_strange_settings(text: str, tmp_path: Path, call: Call) -> None:
    (tmp_path / "polchain.toml").write_text(text)
    check(call("train", tmp_path), text)
    check(call("init", tmp_path, "--foreign", "--passphrase-fd", "99"), text)


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e20", "1e30"])
def test_nobody_waits_longer_than_a_clock_counts(seconds: str, run: Path, claim: Path, call: Call) -> None:
    for words in (["verify", claim, "--timeout", seconds], ["commit", run, "--watch", run, "--settle", seconds]):
        done = call(*words)
        assert (done.code, done.out) == (2, "")
        assert words[-2] in done.err


@pytest.mark.parametrize("number", ["99999999999999", str(2**31), str(2**64)])
def test_a_file_descriptor_that_no_system_has_is_a_usage_error(number: str, run: Path, claim: Path, call: Call) -> None:
    for words in (["keygen"], ["init", run, "--foreign"], ["train", run], ["commit", run, "--watch", run]):
        assert call(*words, "--passphrase-fd", number).code == 2


def test_a_database_beside_a_claims_listing_is_not_opened(
    run: Path, claim: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(run / "ledger.db", claim)
    monkeypatch.setattr("polchain.cli.reading.Ledger", lambda path: pytest.fail("it was opened"))
    for words in (["log", claim], ["show", claim, 2]):
        done = call(*words)
        assert done.code == 1
        assert "'ledger.db' is in the claim's folder, but claim.json does not list it" in done.err


def test_what_verify_would_have_to_guess_is_a_usage_error(claim: Path, tmp_path: Path, call: Call) -> None:
    done = call("verify", claim, "--recipe", tmp_path / "one.py", "--recipe", tmp_path / "other.py")
    assert (done.code, "--recipe names one copy" in done.err, "--trust-recipe" in done.err) == (2, True, True)
    done = call("verify", claim, "--data", tmp_path / "nowhere")
    assert (done.code, "no folder at" in done.err) == (4, True)
