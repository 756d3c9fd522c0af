"""A task: what somebody ordered, so that several workers do the same and can be compared.

    {"configuration": {...}, "dataset": {"root": "sha256:...", "samples": 96}, "format": "polchain-task/v1",
     "recipe": "sha256:...", "seed": "<64 hex>"}

Canonical JSON. Its digest, SHA-256 over the tag `task` and the bytes, is what every genesis for it names and where
`chain` begins. The seed is used as it is: bound to no key, so that whoever does the task comes to the same states.
"""

from __future__ import annotations

from dataclasses import dataclass

from polchain.core.digest import Digest, sha256, tag
from polchain.core.encoding import Fields, decode, encode
from polchain.core.entries import Start
from polchain.core.genesis import Configuration, DatasetRef, Genesis
from polchain.errors import FormatError, UsageError

__all__ = ["TASK_LIMIT", "Task", "departures"]

FORMAT = "polchain-task/v1"
TASK_LIMIT = 65_535


@dataclass(frozen=True, slots=True)
class Task:
    """What was ordered.

    Attributes:
        recipe: the recipe digest (`RecipeRef.program`).
        dataset: the dataset commitment.
        configuration: steps, batch size, interval schedule and the like.
        seed: 32 bytes.
    """

    recipe: Digest
    dataset: DatasetRef
    configuration: Configuration
    seed: bytes

    @property
    def digest(self) -> Digest:
        """What a genesis names."""
        return sha256(tag("task"), self.encode())

    @classmethod
    def of(cls, genesis: Genesis, seed: bytes) -> Task:
        """The task to do what a run does, with this seed.

        Raises:
            UsageError: a foreign run, which nobody can do again; or no seed of 32 bytes.
        """
        if genesis.recipe is None or genesis.dataset is None or genesis.configuration is None or len(seed) != 32:
            raise UsageError("a task takes a recipe and 32 bytes of seed")
        return cls(genesis.recipe.program(), genesis.dataset, genesis.configuration, seed)

    def encode(self) -> bytes:
        """Canonical bytes; `parse` is the inverse."""
        return encode(
            {
                "format": FORMAT,
                "recipe": str(self.recipe),
                "dataset": self.dataset.to_json(),
                "configuration": self.configuration.to_json(),
                "seed": self.seed.hex(),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Task:
        """Read a task; one newline at its end is left aside.

        Raises:
            FormatError: not canonical, over the limit, or a field missing, unknown or malformed.
        """
        fields = Fields(decode(data.removesuffix(b"\n"), limit=TASK_LIMIT, what="task"), "task")
        if fields.str("format", max_length=32) != FORMAT:
            raise FormatError(f"task: the format is not {FORMAT}")
        recipe = Digest.parse(fields.str("recipe"))
        dataset = DatasetRef.parse(fields.fields("dataset"))
        configuration = Configuration.parse(fields.fields("configuration"))
        seed = fields.str("seed", max_length=64)
        fields.done()
        if len(seed) != 64 or any(c not in "0123456789abcdef" for c in seed):
            raise FormatError("task: the seed is not 32 bytes in hex")
        return cls(recipe, dataset, configuration, bytes.fromhex(seed))


def departures(task: Task, genesis: Genesis, start: Start | None) -> tuple[str, ...]:
    """Where a log's own words depart from the task that its genesis names; empty where they do not."""
    found = []
    if genesis.recipe is None or genesis.recipe.program() != task.recipe:
        found.append("another recipe")
    if genesis.dataset != task.dataset:
        salts = genesis.dataset.salts if genesis.dataset is not None else None
        # With other salts the same data has another root: which of both it is, nobody can see.
        found.append("another dataset" + (", or the same under another secret" if salts != task.dataset.salts else ""))
    if genesis.configuration != task.configuration:
        found.append("another configuration")
    if start is not None and (start.source, start.value) != ("task", task.seed):
        found.append("another seed")
    return tuple(found)
