"""Benches for several claims of one task: opened once for each program and setting, with the leaves of the data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import platformdirs

from polchain.core.digest import Digest
from polchain.core.genesis import DatasetRef
from polchain.core.salts import commit_leaves, find_secret
from polchain.errors import DatasetError, UnavailableError
from polchain.storage.keyfile import default_key_file
from polchain.training.fingerprint import Setting, setting_of
from polchain.training.program import Program
from polchain.verifier.bench import Bench
from polchain.verifier.integrity import IntactClaim
from polchain.verifier.sandbox import Sandbox, find_sandbox

if TYPE_CHECKING:
    from polchain.verifier.dispute import Case

__all__ = ["Workshop"]

Opened = tuple[Bench, Sequence[bytes]]


class Workshop:
    """The benches of one case. A context manager."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._open: dict[tuple[Digest, DatasetRef, Setting], Opened] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, intact: IntactClaim) -> Opened:
        """The children that replay a claim's program, and the leaves of its data.

        Raises:
            DatasetError: the data at hand is not the data that was committed.
            DataSecretError: it is private, and its secret is not at hand.
            UnavailableError: nobody vouched for the program, and there is no sandbox.
        """
        genesis, start = intact.genesis, intact.start
        assert genesis.recipe is not None
        assert genesis.dataset is not None
        assert start is not None
        key = genesis.recipe.program(), genesis.dataset, setting_of(start.fingerprint)
        if key in self._open:
            return self._open[key]
        program = Program(genesis.recipe, intact.recipe)
        bench = self._stack.enter_context(
            Bench(program, key[2], self._case.data, timeout=self._case.timeout, sandbox=self._sandbox(key[0]))
        )
        secret = find_secret(genesis.dataset, self._case.secrets.values())
        _, leaves = bench.worker().commit_dataset(genesis.dataset.samples)
        if commit_leaves(leaves, secret) != genesis.dataset:
            raise DatasetError(
                "the data read here is not the data that the task commits to",
                hint="ask whoever ordered the task for it, and point --data at it",
            )
        self._open[key] = bench, leaves
        return self._open[key]

    def _sandbox(self, program: Digest) -> Sandbox | None:
        case = self._case
        if case.policy.unsafe_no_sandbox:
            return None
        hidden = [*case.claims, *case.secrets, default_key_file(), platformdirs.user_config_path("polchain")]
        try:
            return find_sandbox(case.data, hidden, case.policy.sandbox)
        except UnavailableError:
            ordered = case.task.recipe if case.task is not None else None
            if program in case.policy.recipes or program == ordered:
                return None
            raise
