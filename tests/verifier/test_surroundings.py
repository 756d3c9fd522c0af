"""What is shown in the sandbox, and what a recipe may use: from arguments and policy, without running anything."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

import polchain
from polchain.errors import PolicyError, UsageError
from polchain.training.fence import Limits
from polchain.training.fingerprint import Setting, setting_of
from polchain.verifier.allowance import GIB, Allowance
from polchain.verifier.policy import Policy
from polchain.verifier.surroundings import arguments, check_data


def shown(words: list[str]) -> list[Path]:
    """Where something of the host is bound."""
    return [Path(words[i + 2]) for i, word in enumerate(words) if word in ("--ro-bind", "--dev-bind-try")]


def test_python_and_polchain_are_shown_and_no_folder_around_them(tmp_path: Path) -> None:
    found = shown(arguments(tmp_path, [], [], scratch=4096, cuda=False))
    for path in (sys.executable, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), polchain.__file__):
        assert any(Path(path).is_relative_to(folder) for folder in found), f"{path} is not shown"
    package = Path(polchain.__file__).parent
    if not package.is_relative_to(sys.prefix):
        assert not any(package.parent.is_relative_to(folder) for folder in found), "the whole checkout is shown"
    assert not any(Path.home().is_relative_to(folder) for folder in found), "the home folder is shown"


def test_everything_is_read_only_but_temporary_files(tmp_path: Path) -> None:
    words = arguments(tmp_path, [], [], scratch=12345, cuda=False)
    assert not {"--bind", "--bind-try", "--dev-bind", "--dev-bind-try"} & set(words)
    for folder in ("/", "/dev", "/proc"):
        assert any(words[i : i + 2] == ["--remount-ro", folder] for i in range(len(words))), f"{folder} is writable"
    tmpfs = [words[i - 4 : i + 2] for i, word in enumerate(words) if word == "--tmpfs"]
    assert [each[2:] for each in tmpfs] == [["--size", "12345", "--tmpfs", p] for p in ("/tmp", "/dev/shm")]


def test_devices_of_a_gpu_are_shown_only_for_a_run_on_one(tmp_path: Path) -> None:
    words = arguments(tmp_path, [], [], scratch=4096, cuda=False)
    assert not any("nvidia" in word for word in words)
    assert "/sys" not in words
    words = arguments(tmp_path, [], [], scratch=4096, cuda=True)
    assert "/sys" in words
    # CUDA does not start where /proc is read-only.
    sealed = {words[i + 1] for i, word in enumerate(words) if word == "--remount-ro"}
    assert {"/", "/dev"} <= sealed
    assert "/proc" not in sealed
    assert setting_of({"device": "cuda"}).cuda
    assert not setting_of({"device": "cpu"}).cuda
    assert setting_of({"device": "cuda"}).others()[0].cuda


def test_what_is_hidden_is_covered_after_it_was_shown(tmp_path: Path) -> None:
    claim, key = tmp_path / "runs" / "claim", tmp_path / "key"
    claim.mkdir(parents=True)
    key.touch()
    words = arguments(tmp_path, [claim, key, tmp_path / "nothing", Path("/nowhere")], [], scratch=4096, cuda=False)
    at = words.index(str(tmp_path))
    assert words[words.index(str(claim)) - 1] == "--tmpfs"
    assert words.index(str(claim)) > at
    assert words[words.index(str(key)) - 2 : words.index(str(key))] == ["--ro-bind", "/dev/null"]
    assert words.index(str(key)) > at
    assert not any("nothing" in word or "nowhere" in word for word in words)


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_data_in_the_claim_is_not_shown(tmp_path: Path, inside: str) -> None:
    data = tmp_path / inside
    data.mkdir(exist_ok=True)
    words = arguments(data, [tmp_path], [], scratch=4096, cuda=False)
    assert words[words.index(str(data)) - 1] == "--dir"


def test_a_link_leads_to_what_is_shown(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    assert real in shown(arguments(tmp_path / "link", [], [], scratch=4096, cuda=False))
    words = arguments(tmp_path, [tmp_path / "link"], [], scratch=4096, cuda=False)
    assert words[words.index(str(real)) - 1] == "--tmpfs"


@pytest.mark.parametrize("path", ["/", "/tmp", "/usr", "/proc", "/proc/self", "/dev", "/dev/shm", "/sys/devices"])
def test_folders_of_the_system_are_no_data(path: str) -> None:
    with pytest.raises(UsageError, match="the data folder") as caught:
        check_data(Path(path))
    assert "--data" in caught.value.hint


def test_a_home_folder_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "users" / "alice"))
    for path in (tmp_path, tmp_path / "users", tmp_path / "users" / "alice"):
        with pytest.raises(UsageError, match="holds your home folder"):
            check_data(path)
    check_data(tmp_path / "users" / "alice" / "data")
    check_data(Path("/dev/shm/data"))


def read(tmp_path: Path, text: str) -> Policy:
    (tmp_path / "policy.toml").write_text(text)
    return Policy.read(tmp_path / "policy.toml")


def test_an_allowance_is_read_from_the_policy(tmp_path: Path) -> None:
    text = '[sandbox]\nmemory = 8\nprocesses = 32\nscratch = 0.5\noutput = 2\nshow = ["lib", "/opt/x"]\n'
    found = read(tmp_path, text).sandbox
    assert found == Allowance(8.0, 32, 0.5, 2.0, (tmp_path / "lib", Path("/opt/x")))
    assert found.bytes() == 8 * GIB
    assert read(tmp_path, "").sandbox == Allowance()
    assert Allowance().bytes() >= GIB // 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sandbox = 1", "sandbox is a table"),
        ("[sandbox]\nmemory = 'much'", "memory is a number"),
        ("[sandbox]\nmemory = true", "memory is a number"),
        ("[sandbox]\nmemory = -1", "not between 0 and"),
        ("[sandbox]\nmemory = nan", "no number that could be meant"),
        ("[sandbox]\nscratch = 1e300", "not between 0 and"),
        (f"[sandbox]\nscratch = {10**400}", "no number that could be meant"),
        ("[sandbox]\nprocesses = 0", "not between 1 and"),
        ("[sandbox]\nprocesses = 1.5", "a whole number"),
        ("[sandbox]\nshow = 'x'", "a list of strings"),
        ("[sandbox]\nshow = [1]", "a list of strings"),
        ("[sandbox]\ntime = 1", "unknown name 'time'"),
    ],
)
def test_an_allowance_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        read(tmp_path, text)


def test_limits_travel_as_text() -> None:
    limits = Limits(memory=1 << 40, heap=3, tasks=4, file=5, seconds=6)
    assert Limits.parse(str(limits)) == limits
    assert Limits.parse(str(Limits())) == Limits()
    assert Setting(threads=1) == setting_of({"threads": 1})
