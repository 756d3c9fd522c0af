"""A run's polchain.toml: what was written is what is read."""

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


def test_the_file_is_utf8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunSettings(tmp_path / "schlüssel").write(tmp_path)
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, encoding="ascii": real(path, encoding=encoding))
    assert RunSettings.read(tmp_path).key_file == tmp_path / "schlüssel"


def test_a_name_that_is_no_text_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        RunSettings(tmp_path / "key\udcff").write(tmp_path)
    assert not (tmp_path / "polchain.toml").exists()


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "= broken", "\x00", "arguments = 7"])
def test_a_file_that_is_no_settings_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "polchain.toml").write_text(text)
    with pytest.raises(UsageError, match=r"polchain\.toml"):
        RunSettings.read(tmp_path)
