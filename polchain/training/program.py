"""The recipe's text, found from the script that is running.

Its files are the script, the modules loaded from its folder, and whatever else `record(files=)` names; all of it is
text, at most 256 KiB. What it imports from elsewhere is noted as `name==version`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import polchain
from polchain.core.claim import RECIPE_LIMIT
from polchain.core.digest import blake3
from polchain.core.genesis import FileRef, RecipeRef
from polchain.core.source import check_source
from polchain.errors import FormatError, RecipeError

__all__ = ["Program", "find_program"]


@dataclass(frozen=True, slots=True)
class Program:
    """A recipe's text: what a child runs."""

    ref: RecipeRef
    files: Mapping[str, bytes]


def find_program(files: Sequence[Path] = ()) -> Program:
    """The program that is running as `__main__`.

    Raises:
        RecipeError: it is not a file (a notebook, a prompt), or its text is too large or no text.
    """
    main = sys.modules["__main__"]
    source = getattr(main, "__file__", None)
    if source is None or not Path(source).is_file():
        raise RecipeError("the recipe is not a file", hint="put the training into a script: the script is the recipe")
    script = Path(source).resolve()
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        name = spec.name.removesuffix(".__main__")
        folder, entry, module = script.parents[spec.name.count(".")], name, True
    else:
        folder, entry, module = script.parent, script.name, False
    paths = {script, *_loaded_from(folder), *(Path(file).resolve() for file in files)}
    texts = {_relative(path, folder): _text(path) for path in paths}
    if sum(len(text) for text in texts.values()) > RECIPE_LIMIT:
        raise RecipeError(
            f"the recipe's files are over {RECIPE_LIMIT} bytes together",
            hint="a recipe is program text: what is data belongs in the dataset",
        )
    refs = tuple(FileRef(name, len(text), blake3(text)) for name, text in sorted(texts.items()))
    return Program(RecipeRef(entry, module, tuple(sys.argv[1:]), refs, _imports(folder)), texts)


def _loaded_from(folder: Path) -> set[Path]:
    # A virtual environment, or polchain's own checkout, may lie inside the recipe's folder: neither is the recipe.
    excluded = [Path(sys.prefix).resolve(), Path(polchain.__file__).resolve().parent]
    found = set()
    for module in list(sys.modules.values()):
        source = getattr(module, "__file__", None)
        if not isinstance(source, str) or not source.endswith(".py"):
            continue
        path = Path(source).resolve()
        outside = not path.is_relative_to(folder) or any(path.is_relative_to(each) for each in excluded)
        installed = {"site-packages", "dist-packages"} & set(path.parts)
        if not outside and not installed and path.is_file():
            found.add(path)
    return found


def _relative(path: Path, folder: Path) -> str:
    if not path.is_relative_to(folder):
        raise RecipeError(f"{path} is outside the recipe's folder {folder}", hint="keep the recipe's files together")
    return path.relative_to(folder).as_posix()


def _text(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        check_source(data, str(path))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe's file {path}: {error.strerror}") from error
    except FormatError as error:
        raise RecipeError(str(error), hint=error.hint) from error
    return data


def _imports(folder: Path) -> tuple[str, ...]:
    owners = metadata.packages_distributions()
    names = {name.partition(".")[0] for name in sys.modules}
    distributions = {owner for name in names for owner in owners.get(name, ())}
    return tuple(sorted(f"{name}=={metadata.version(name)}" for name in distributions))
