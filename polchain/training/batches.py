"""Batches: samples read, augmented and collated, the same whatever does it.

Reading, augmentation and collation run on one torch thread, in this process or in a loader's workers, and every
global generator is seeded for each sample by (step, position), so that transforms that ignore the generator they are
handed are deterministic too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from polchain.training.aside import one_thread
from polchain.training.dataset import MapDataset, encode_sample
from polchain.training.randomness import derive_key, generator, seed_everything

__all__ = ["BatchMaker", "iterate"]

Augment = Callable[[Any, torch.Generator], Any]
Collate = Callable[[list[Any]], Any]
Plan = tuple[int, Sequence[int]]


class BatchMaker(Dataset[Any]):
    """Makes the batch of a step from its dataset indices. Its keys are pairs (step, indices)."""

    def __init__(self, dataset: MapDataset, seed: bytes, augment: Augment | None, collate: Collate | None) -> None:
        self.dataset = dataset
        self.seed = seed
        self.augment = augment
        self.collate = collate or default_collate
        self.witness: Callable[[int, bytes], None] | None = None

    def __getitem__(self, plan: Plan) -> Any:
        step, indices = plan
        samples = []
        for place, index in enumerate(indices):
            key = derive_key(self.seed, "augment", step, place)
            seed_everything(key)
            sample = self.dataset[index]
            if self.witness is not None:
                self.witness(index, encode_sample(sample))
            if self.augment is not None:
                # A copy: what augments in place would change the data itself, from one epoch to the next.
                sample = self.augment(copy.deepcopy(sample), generator(key))
            samples.append(sample)
        return self.collate(samples)


def iterate(maker: BatchMaker, plans: Iterable[Plan], workers: int) -> Iterator[Any]:
    """The batches of these steps, in order, made here (0) or by that many worker processes."""
    if workers == 0:
        for plan in plans:
            with one_thread():
                batch = maker[plan]
            yield batch
        return
    # The context is named because its default changes between Python versions, and forked workers need no pickling.
    loader = DataLoader(
        maker,
        batch_size=None,
        sampler=plans,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="fork",
    )
    yield from loader


def _as_it_is(batch: Any) -> Any:
    """What the loader does to a batch; its own default would make tensors of numpy arrays."""
    return batch
