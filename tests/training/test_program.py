"""The recipe's text, found from the script that is running."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from polchain.training.program import find_program


def test_what_is_installed_below_the_recipes_folder_is_not_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("train.py", "helper.py", "env/lib/python3.11/site-packages/other.py", "usr/lib/dist-packages/more.py")
    for index, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        module = ModuleType(f"found{index}")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "__main__" if name == "train.py" else module.__name__, module)
    assert sorted(find_program().files) == ["helper.py", "train.py"]
