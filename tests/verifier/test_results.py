"""The results file: it goes on after a kill, belongs to one verification of one user, and anything else is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polchain.cli.app import main
from polchain.core.digest import blake3_keyed, tag
from polchain.core.encoding import encode
from polchain.errors import FormatError, StorageError, UsageError
from polchain.training.fingerprint import Setting
from polchain.verifier.challenge import draw_challenge
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.results import LINE_LIMIT, OTHER, Belonging, Results, results_key
from tests.claims import DATA, Recorded

KEY = bytes(range(32))
SEED = bytes(range(32))
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    (tmp_path / "claim").mkdir()
    return tmp_path / "claim"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def mine(intact: IntactClaim) -> Belonging:
    challenge = draw_challenge(intact, SEED, 90)
    return Belonging.of(intact, challenge, vouched=True, sandbox="bubblewrap 0.8.0", setting=Setting(1))


@pytest.fixture
def written(path: Path, claim: Path, mine: Belonging) -> bytes:
    """A file with three results."""
    with Results(path, claim, KEY) as results:
        assert results.seed is None
        assert results.begin(mine) == {}
        for segment in (7, 0, 3):
            results.add(segment, segment + 0.25)
    return path.read_bytes()


def test_what_was_kept_is_found_again(written: bytes, path: Path, claim: Path, mine: Belonging) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    with Results(path, claim, KEY) as results:
        assert results.seed == SEED
        assert results.begin(mine) == {7: 7.25, 0: 0.25, 3: 3.25}
        results.add(9, 1.0)
    assert path.read_bytes().startswith(written)
    with Results(path, claim, KEY) as results:
        assert sorted(results.begin(mine)) == [0, 3, 7, 9]


def test_a_file_that_was_begun_and_not_written_to_is_new(path: Path, claim: Path, mine: Belonging) -> None:
    Results(path, claim, KEY).close()
    assert path.read_bytes() == b""
    with Results(path, claim, KEY) as results:
        assert results.begin(mine) == {}


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(
    written: bytes, path: Path, claim: Path, mine: Belonging
) -> None:
    whole = written[: written.rindex(b"\n", 0, -1) + 1]
    for end in range(len(whole), len(written)):
        path.write_bytes(written[:end])
        with Results(path, claim, KEY) as results:
            assert sorted(results.begin(mine)) == [0, 7]
            results.add(3, 3.25)
        assert path.read_bytes() == written, "what was torn is written over"


def test_a_torn_first_line_is_no_results_file(written: bytes, path: Path, claim: Path) -> None:
    # It could be any other file of the user's, and would be written over.
    first = written.index(b"\n")
    for end in (1, 20, first):
        path.write_bytes(written[:end])
        with pytest.raises(UsageError, match="is damaged, or no results file"):
            Results(path, claim, KEY)
        assert path.read_bytes() == written[:end]


@FUZZ
@given(data=st.data())
def test_no_changed_byte_is_believed(
    data: st.DataObject, written: bytes, path: Path, claim: Path, mine: Belonging
) -> None:
    changed = bytearray(written)
    at = data.draw(st.integers(0, len(written) - 1))
    what = data.draw(st.sampled_from(["change", "drop", "add", "swap", "cut"]))
    if what == "change":
        changed[at] ^= data.draw(st.integers(1, 255))
    elif what == "drop":
        del changed[at : at + data.draw(st.integers(1, 400))]
    elif what == "add":
        changed[at:at] = data.draw(st.binary(min_size=1, max_size=40))
    elif what == "swap":
        lines = written.splitlines(keepends=True)
        one, two = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=2, unique=True))
        lines[one], lines[two] = lines[two], lines[one]
        changed = bytearray(b"".join(lines))
    else:
        del changed[at:]
    path.write_bytes(bytes(changed))
    try:
        with Results(path, claim, KEY) as results:
            found = results.begin(mine)
    except UsageError:
        return
    kept = {7: 7.25, 0: 0.25, 3: 3.25}
    assert found.items() <= kept.items(), "a result that nobody wrote"
    assert list(found) == list(kept)[: len(found)]


JSONS = st.recursive(
    st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "kind", "segment"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@FUZZ
@given(data=st.data())
def test_nonsense_under_a_right_mac_is_refused_by_name(
    data: st.DataObject, path: Path, claim: Path, mine: Belonging
) -> None:
    first: dict[str, Any] = {"kind": "verification", **mine.to_json()}
    other: dict[str, Any] = {"kind": "exact", "segment": 1, "seconds": (0.5).hex()}
    before = [dict(first), dict(other)]
    broken = data.draw(st.sampled_from([first, other]))
    name = data.draw(st.sampled_from([*broken, "more"]))
    value = data.draw(JSONS | st.just(None))
    if value is None:
        broken.pop(name, None)
    else:
        broken[name] = value
    put(path, signed(first, other))
    try:
        with Results(path, claim, KEY) as results:
            found = results.begin(mine)
    except UsageError:
        assert [first, other] != before, "nothing was changed"
        return
    assert first == before[0]
    assert found == {other["segment"]: float.fromhex(other["seconds"])}


def put(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(data)


def signed(*lines: dict[str, Any], key: bytes = KEY) -> bytes:
    mac, data = bytes(32), b""
    for line in lines:
        mac = blake3_keyed(key, tag("results") + mac + encode(line))
        data += encode({**line, "mac": mac.hex()}) + b"\n"
    return data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{}\n", "field 'mac': missing"),
        (b"[]\n", "an object was expected"),
        (b"\n", "not JSON"),
        (b"\xff\n", "not UTF-8"),
        (b"x" * (LINE_LIMIT + 2) + b"\n", "without an end"),
        (b"[" * 1500 + b"\n", "levels"),
        (b"notes to myself", "without an end"),
    ],
)
def test_what_is_no_results_file_is_refused_and_left_as_it_is(path: Path, claim: Path, text: bytes, said: str) -> None:
    put(path, text)
    with pytest.raises(UsageError, match="is damaged, or no results file") as caught:
        Results(path, claim, KEY)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    assert path.read_bytes() == text


def test_a_file_that_is_too_large_is_not_read(path: Path, claim: Path) -> None:
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="over the limit"):
        Results(path, claim, KEY)


def test_a_file_that_another_user_wrote_is_refused(path: Path, claim: Path, mine: Belonging) -> None:
    # As a prover might: the claim's own head, a seed of his choice, and every segment exact.
    forged = {"kind": "verification", **mine.to_json()}
    put(path, signed(forged, {"kind": "exact", "segment": 0, "seconds": (1.0).hex()}, key=bytes(32)))
    with pytest.raises(UsageError, match="a line that this user's polchain did not write there"):
        Results(path, claim)


def _link(path: Path) -> None:
    path.with_name("elsewhere").touch(0o600)
    path.symlink_to(path.with_name("elsewhere"))


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "readable by others": (lambda path: path.touch(0o644), "is not yours alone"),
    "writable by a group": (lambda path: (path.touch(), path.chmod(0o660)), "is not yours alone"),
    "a link": (_link, "cannot be opened"),
    "a folder": (lambda path: path.mkdir(), "cannot be opened"),
    "a pipe": (lambda path: os.mkfifo(path, 0o600), "is not a file"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_not_the_users_own_file_is_refused(path: Path, claim: Path, place: str) -> None:
    make, said = PLACES[place]
    make(path)
    with pytest.raises(UsageError, match=said):
        Results(path, claim, KEY)


def test_a_file_in_the_claim_or_in_no_folder_is_refused(path: Path, claim: Path) -> None:
    with pytest.raises(UsageError, match="lies in the claim"):
        Results(claim / "results", claim, KEY)
    assert not list(claim.iterdir())
    with pytest.raises(UsageError, match="cannot be opened: No such file or directory"):
        Results(path / "below", claim, KEY)


def test_only_one_verification_has_a_file_open(path: Path, claim: Path) -> None:
    with Results(path, claim, KEY), pytest.raises(UsageError, match="is in use"):
        Results(path, claim, KEY)
    Results(path, claim, KEY).close()


def test_a_file_belongs_to_one_verification(written: bytes, path: Path, claim: Path, mine: Belonging) -> None:
    assert set(OTHER) == {item.name for item in fields(Belonging)}, "every field is compared"
    for name, meaning in OTHER.items():
        value = getattr(mine, name)
        changed = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "0" * 64
        with Results(path, claim, KEY) as results, pytest.raises(UsageError) as caught:
            results.begin(replace(mine, **{name: changed}))
        assert meaning in str(caught.value)
        assert "delete" in caught.value.hint
    assert path.read_bytes() == written


def test_whatever_decides_what_is_replayed_makes_another_verification(
    intact: IntactClaim, longer_draw: list[Any]
) -> None:
    made = [
        Belonging.of(intact, challenge, vouched=True, sandbox="none", setting=Setting(1)) for challenge in longer_draw
    ]
    assert len({(item.draw, item.seed) for item in made}) == len(made)
    assert made[0] == Belonging.of(intact, longer_draw[0], vouched=True, sandbox="none", setting=Setting(1))
    assert (made[0].origin, made[0].size) == (intact.head.origin, intact.head.size)


@pytest.fixture
def longer_draw(intact: IntactClaim) -> list[Any]:
    return [
        draw_challenge(intact, SEED, 90),
        draw_challenge(intact, bytes(32), 90),
        draw_challenge(intact, SEED, 89),
        draw_challenge(intact, SEED, 90, flagged={3: ["moments"]}),
        draw_challenge(intact, SEED, 90, full=True),
        draw_challenge(intact, SEED, 90, budget=2.0, reserved=10),
    ]


def test_a_file_of_another_verification_is_a_usage_error_of_the_command(
    recorded: Recorded, path: Path, claim: Path, mine: Belonging, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["verify", str(recorded.claim), "--data", str(DATA), "--resume", str(path), "--jobs", "1"]
    for changes, said in (
        ({"root": "0" * 64}, "another log"),
        ({}, "another draw"),
        ({"seed": "1" * 64}, "another draw"),
    ):
        path.unlink(missing_ok=True)
        with Results(path, claim) as results:
            results.begin(replace(mine, **changes))  # type: ignore[arg-type]
        before = path.read_bytes()
        assert main([*words, "--fraction", "0.5"]) == 2
        assert said in capsys.readouterr().err
        assert path.read_bytes() == before
    assert main([*words, "--seed", "00" * 32]) == 2
    assert "drawn from another seed" in capsys.readouterr().err


def test_a_full_disk_is_said(path: Path, claim: Path, mine: Belonging, monkeypatch: pytest.MonkeyPatch) -> None:
    with Results(path, claim, KEY) as results:
        results.begin(mine)
        monkeypatch.setattr(os, "pwrite", lambda *_: 3)
        with pytest.raises(StorageError, match="No space left"):
            results.add(1, 1.0)


def test_the_key_is_made_once_and_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    key = results_key()
    assert results_key() == key
    (made,) = (tmp_path / "state" / "polchain").iterdir()
    assert made.stat().st_mode & 0o777 == 0o600
    made.write_bytes(b"short")
    with pytest.raises(StorageError, match="is not a key of 32 bytes"):
        results_key()


def test_what_a_prover_named_is_written_escaped(path: Path, claim: Path, mine: Belonging) -> None:
    hostile = replace(mine, origin='x\n{"kind":"exact"}\x1b[2J', sandbox="\u202e\x00")
    with Results(path, claim, KEY) as results:
        results.begin(hostile)
    text = path.read_bytes()
    assert text.count(b"\n") == 1
    assert b"\x1b" not in text
    assert json.loads(text)["origin"] == hostile.origin
    with pytest.raises(FormatError), Results(path.with_name("other"), claim, KEY) as results:
        results.begin(replace(mine, origin="\ud800"))
