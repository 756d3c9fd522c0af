"""A small recipe with everything in it that crosses steps: momentum, AdamW, dropout, batch norm, a schedule.

Slow enough to be killed in the middle.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

import polchain

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--every", type=int, default=3)
parser.add_argument("--pause", type=float, default=0.0)
arguments = parser.parse_args()


def points() -> list[tuple[torch.Tensor, int]]:
    source = torch.Generator().manual_seed(7)
    inputs = torch.randn(200, 12, generator=source)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long().tolist()
    return list(zip(inputs, labels, strict=True))


def jitter(sample: tuple[torch.Tensor, int], generator: torch.Generator) -> tuple[torch.Tensor, int]:
    return sample[0] + 0.1 * torch.randn(12, generator=generator), sample[1]


with polchain.record(
    "run", data=points, augment=jitter, batch_size=16, steps=arguments.steps, every=arguments.every
) as run:
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.steps)
    run.attach(model=model, optimizer=optimizer, scheduler=scheduler)
    for _, (inputs, labels) in run.batches():
        if arguments.pause:
            import time

            time.sleep(arguments.pause)
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        run.log(loss=loss)
