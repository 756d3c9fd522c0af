"""How `polchain init` and `polchain train` start the process that runs the script (`cli.child`).

`train` turns into it: the same process, so that a signal meant for `polchain train` reaches the training. `init` waits
for it, since a genesis may have to be published afterwards. What it is to do is one word of its command line, JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from polchain.cli.options import data_folder, hand_down, passphrase_source
from polchain.errors import UsageError

__all__ = ["Orders", "Script", "become", "prepare", "run_apart"]


@dataclass(frozen=True, slots=True)
class Script:
    """What is run: a file, or with `module` a module by its name; its arguments."""

    name: str
    module: bool
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Orders:
    """What the process that runs the script is told.

    Attributes:
        mode: init or train.
        as_json: answer with one JSON object.
        module: the script is a module's name.
        own_seed: draw the seed, though the genesis names a beacon.
        run_id, address, signature: an address that a new run's genesis is to bind, in hexadecimal; empty for none.
        beacon: the chain that its seed is to come from.
        task: what a new run is for, as its file has it; empty for none.
        recovery: the key that may revoke a new run's; empty for none.
        private: salt a new run's data, with a secret that is drawn.
        data_secret: the file of the secret to salt it with instead; empty for none.
        settings: what the run's polchain.toml is to say besides the script.
        store_every: steps from one stored state to the next; 0 to leave that to the script.
        follower: the process that anchors meanwhile; 0 for none.
    """

    mode: str
    as_json: bool
    module: bool = False
    own_seed: bool = False
    run_id: str = ""
    address: str = ""
    signature: str = ""
    beacon: int | None = None
    task: str = ""
    recovery: str = ""
    private: bool = False
    data_secret: str = ""
    settings: dict[str, str] | None = None
    store_every: int = 0
    follower: int = 0

    def encode(self) -> str:
        """As one word; `parse` is the inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, word: str) -> Orders:
        """Read what `encode` wrote."""
        values: dict[str, Any] = json.loads(word)
        return cls(**values)


def prepare(
    script: Script, key_file: Path | None, data: Path | None, passphrase_file: Path | None, passphrase_fd: int | None
) -> None:
    """Check what can be checked beforehand, and put flags where the script's process looks for them.

    Raises:
        UsageError: no such script, two passphrases, a descriptor that is not open.
        DatasetError: no such folder.
    """
    if not script.module and not Path(script.name).is_file():
        raise UsageError(
            f"no script at {script.name}", hint="--recipe names the training script; a module needs --module"
        )
    if not script.module and Path(script.name).suffix != ".py":
        raise UsageError(
            f"{script.name} is not a Python script", hint="--recipe names a .py file; a module needs --module"
        )
    data_folder(data)
    passphrase_source(passphrase_file, passphrase_fd)
    hand_down("POLCHAIN_KEY_FILE", key_file)
    hand_down("POLCHAIN_DATA", data)
    hand_down("POLCHAIN_PASSPHRASE_FILE", passphrase_file)
    if passphrase_fd is not None:
        os.environ["POLCHAIN_PASSPHRASE_FD"] = str(passphrase_fd)
    elif passphrase_file is not None:
        os.environ.pop("POLCHAIN_PASSPHRASE_FD", None)
    _keep_open(os.environ.get("POLCHAIN_PASSPHRASE_FD"))
    from polchain.training.fingerprint import CUBLAS_WORKSPACE, SPIN_COUNT

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that spin while they wait stall each other where the cores are busy; it changes no bit.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    sys.stdout.flush()
    sys.stderr.flush()


def become(orders: Orders, run: Path, script: Script) -> NoReturn:
    """Turn this process into the one that runs the script."""
    os.execv(sys.executable, _command(orders, run, script))


def run_apart(orders: Orders, run: Path, script: Script) -> tuple[int, str]:
    """Run the script's process to its end; returns its exit code and its answer."""
    # close_fds=False: a passphrase may be read from a descriptor that was made to be inherited.
    with subprocess.Popen(_command(orders, run, script), stdout=subprocess.PIPE, text=True, close_fds=False) as process:
        while True:
            try:
                answer, _ = process.communicate()
                return process.returncode, answer
            except KeyboardInterrupt:
                continue  # It was interrupted too, and says so itself.


def _command(orders: Orders, run: Path, script: Script) -> list[str]:
    words = [orders.encode(), str(run), script.name, *script.arguments]
    return [sys.executable, "-P", "-m", "polchain.cli.child", *words]


def _keep_open(descriptor: str | None) -> None:
    if descriptor and descriptor.isdecimal():
        try:
            os.set_inheritable(int(descriptor), True)
        except (OSError, OverflowError) as error:
            raise UsageError(f"no open file descriptor {descriptor} to read a passphrase from") from error
