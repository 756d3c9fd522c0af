"""What every test shares: a clean environment, and tools that must not go missing unseen."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

# Before torch is imported: test workers share the cores, and a thread that spins while it waits starves the others.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# A developer's own settings must not decide a test.
for name in [name for name in os.environ if name.startswith("POLCHAIN_")]:
    del os.environ[name]


# In the background of a shell without job control an interrupt is ignored, and by whatever is started there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


# A worker of pytest-xdist has it from its master; then what a command prints would be broken into lines.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session", autouse=True)
def _own_user_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys and settings of the tests lie in a temporary folder, never in the developer's."""
    home = tmp_path_factory.mktemp("home")
    for name in ("CONFIG", "DATA", "STATE", "CACHE"):
        os.environ[f"XDG_{name}_HOME"] = str(home / name.lower())


@pytest.fixture(autouse=True)
def _own_environment(_own_user_folders: None) -> Iterator[None]:
    """A command that runs in this process sets what its children are to find: the next test's are not its children."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """`require("bwrap")` returns the tool's path; without the tool the test skips, and under CI=true fails."""

    def find(tool: str) -> str:
        path = shutil.which(tool)
        if path is not None:
            return path
        if in_ci():
            pytest.fail(f"{tool} is not installed; .ci/run must install it")
        pytest.skip(f"{tool} is not installed")

    return find


@pytest.fixture(scope="session")
def require_sandbox(require: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """As `require("bwrap")`; where it may make no sandbox, the test skips as well, and under CI=true fails."""
    from polchain.errors import UnavailableError
    from polchain.verifier.allowance import Allowance
    from polchain.verifier.sandbox import find_sandbox

    require("bwrap")
    try:
        find_sandbox(tmp_path_factory.mktemp("sandbox"), [], Allowance())
    except UnavailableError as error:
        if in_ci():
            pytest.fail(f"{error}; {error.hint}")
        pytest.skip(f"{error}; {error.hint}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests where there is no GPU, in CI too: torch is asked only if such a test was collected."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
