"""A run's polchain.toml: what was written is what is read."""

from dataclasses import replace
from pathlib import Path

import pytest

from polchain.errors import UsageError
from polchain.prover.settings import RunSettings


@pytest.mark.parametrize("word", ["\x7f", "\U0001f600", "ä\u2028", 'a"b\\c', "\x00\x1f\n\t", "--naïve=ß"])
def test_any_text_that_is_written_is_read_back(tmp_path: Path, word: str) -> None:
    name = word.replace("\x00", "")
    settings = RunSettings(tmp_path / f"key {name}", f"{word}.py", True, (word, f"x{word}"), tmp_path / name)
    settings.write(tmp_path)
    assert RunSettings.read(tmp_path) == settings


@pytest.mark.parametrize("payer", ["keystore", "account"])
def test_where_a_run_is_anchored_is_read_back(tmp_path: Path, payer: str) -> None:
    said = {"network": "sepolia", "rpc": "https://host/secret", payer: str(tmp_path / "payer")}
    settings = replace(RunSettings(tmp_path / "key").with_network(said), tsa=("https://a/", "https://b/"))
    settings.write(tmp_path)
    assert RunSettings.read(tmp_path) == settings
    assert (tmp_path / "polchain.toml").stat().st_mode & 0o777 == 0o600, "a node's address may hold a secret"


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"network": "sepolia", "rpc": "https://host/", "keystore": str(tmp_path / "wallet")}
    RunSettings(tmp_path / "key").with_network(said).write(tmp_path)
    monkeypatch.setenv("POLCHAIN_ACCOUNT", "0x12")
    monkeypatch.setenv("POLCHAIN_RPC", "https://secret/")
    found = RunSettings.read(tmp_path)
    assert (found.keystore, found.account) == (None, "0x12")
    assert found.rpc == "https://host/", "what is read may be written again: nothing from the environment's address"
    monkeypatch.setenv("POLCHAIN_NETWORK", "hoodi")
    found = RunSettings.read(tmp_path)
    assert (found.network, found.rpc) == ("hoodi", ""), "the node of one network is none of another"


def test_the_file_is_utf8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunSettings(tmp_path / "schlüssel").write(tmp_path)
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, encoding="ascii": real(path, encoding=encoding))
    assert RunSettings.read(tmp_path).key_file == tmp_path / "schlüssel"


def test_a_name_that_is_no_text_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        RunSettings(tmp_path / "key\udcff").write(tmp_path)
    assert not (tmp_path / "polchain.toml").exists()


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "= broken", "\x00", "arguments = 7", "tsa = 7"])
def test_a_file_that_is_no_settings_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "polchain.toml").write_text(text)
    with pytest.raises(UsageError, match=r"polchain\.toml"):
        RunSettings.read(tmp_path)
