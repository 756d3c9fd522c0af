"""Killed at any moment, a run goes on and ends with the bytes of an unbroken one (design, section 11)."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import zip_longest
from pathlib import Path

import pytest

from polchain.core.keys import PrivateKey
from polchain.prover import fsck
from polchain.storage.keyfile import write_key

SCRIPT = Path(__file__).parent.parent / "scripts" / "steady.py"
KILLS = 10
ARGUMENTS = ["--steps", "60", "--every", "3", "--pause", "0.02"]


def start(run: Path, key: Path, verb: str = "train") -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "polchain.cli.app",
        verb,
        str(run),
        "--recipe",
        str(SCRIPT),
        "--key-file",
        str(key),
    ]
    return subprocess.Popen(
        [*command, "--", *ARGUMENTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()
    return output.decode()


def contents(run: Path) -> tuple[list[object], list[object], list[object]]:
    with sqlite3.connect(run / "ledger.db") as database:
        entries = database.execute("SELECT number, data FROM entries ORDER BY number").fetchall()
        heads = database.execute("SELECT size, note FROM heads ORDER BY size").fetchall()
    return entries, heads, [(run / "head.note").read_bytes()]


def entry_count(run: Path) -> int:
    with sqlite3.connect(f"file:{run / 'ledger.db'}?mode=ro", uri=True) as database:
        return int(database.execute("SELECT count(*) FROM entries").fetchone()[0])


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path) -> None:
    key = tmp_path / "key"
    write_key(key, PrivateKey.generate(), None)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finish(start(unbroken, key, "init"))
    shutil.copytree(unbroken, broken)
    finish(start(unbroken, key))

    chance = random.Random(20260101)
    grown = 0
    for _ in range(KILLS):
        before = entry_count(broken)
        process = start(broken, key)
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0.1, 2.5))
        else:
            # Long enough for torch to load, then anywhere inside training: a commit takes about as long as a step.
            deadline = time.monotonic() + 60
            while entry_count(broken) == before and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        grown += entry_count(broken) > before
        health = fsck.check(broken)
        assert not health.damage, f"after a kill: {health.damage}"
    assert grown >= 3, "too few of the kills fell into training for this test to mean anything"

    finish(start(broken, key))
    for ours, theirs in zip(contents(broken), contents(unbroken), strict=True):
        # One at a time: what differs is then said whole.
        for number, (one, other) in enumerate(zip_longest(ours, theirs)):
            assert one == other, f"entry or head {number}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and its key, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    write_key(folder / "key", PrivateKey.generate(), None)
    finish(start(folder / "run", folder / "key"))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run of this test's own."""
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


def test_a_finished_run_is_not_trained_again(finished: Path, run: Path) -> None:
    before = contents(run)
    finish(start(run, finished / "key"))
    assert contents(run) == before


def test_lost_checkpoints_are_trained_again_and_must_match_the_log(finished: Path, run: Path) -> None:
    before = contents(run)
    kept = sorted((run / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    lost = {path.name: path.read_bytes() for path in kept[5:]}
    for path in kept[5:]:
        path.unlink()
    finish(start(run, finished / "key"))
    assert contents(run) == before
    assert {name: (run / "checkpoints" / name).read_bytes() for name in lost} == lost


def test_settings_that_a_kill_kept_from_being_written_are_written_later(tmp_path: Path) -> None:
    key, run = tmp_path / "key", tmp_path / "run"
    write_key(key, PrivateKey.generate(), None)
    finish(start(run, key, "init"))
    written = (run / "polchain.toml").read_bytes()
    (run / "polchain.toml").unlink()
    finish(start(run, key))
    assert (run / "polchain.toml").read_bytes() == written
