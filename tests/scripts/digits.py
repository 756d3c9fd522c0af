"""A small network on handwritten digits: the victim of the forgers, and the honest claim of the verifier's tests."""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polchain

BATCH = 32


def read() -> list[tuple[Tensor, int]]:
    table = np.loadtxt(polchain.data_dir() / "digits.csv.gz", delimiter=",", dtype=np.float32, max_rows=512)
    images = torch.from_numpy(table[:, :64]).reshape(-1, 1, 8, 8) / 16
    return [(images[i], int(table[i, 64])) for i in range(len(table))]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )  # fmt: skip


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=0.003)
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def interval_of(text: str) -> int | list[tuple[int, int]]:
    """`5`, or a schedule such as `0:1,80:60,140:1`: from step 80 on, a checkpoint every 60."""
    if ":" not in text:
        return int(text)
    return [(int(start), int(k)) for start, _, k in (part.partition(":") for part in text.split(","))]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=interval_of, default=5)
    options = parser.parse_args(words)
    with polchain.record("run", data=read, batch_size=BATCH, steps=options.steps, every=options.every) as run:
        model = network()
        optimizer = optimizer_of(options.optimizer, model)
        run.attach(model=model, optimizer=optimizer)
        for _, (images, labels) in run.batches():
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            run.log(loss=loss)


if __name__ == "__main__":
    main()
