"""Recipes that carry something from step to step which is not attached, each in its own way, from step 9 on."""

import os
import sys

import torch
from torch import nn
from torch.nn import functional as F

import polchain

KIND = sys.argv[1]


def points() -> list[tuple[torch.Tensor, int]]:
    source = torch.Generator().manual_seed(7)
    inputs = torch.randn(64, 6, generator=source)
    return list(zip(inputs, (inputs[:, 0] > 0).long().tolist(), strict=True))


def shift(sample: tuple[torch.Tensor, int], generator: torch.Generator) -> tuple[torch.Tensor, int]:
    values, label = sample
    values += 0.1 * torch.randn(6, generator=generator)
    return values, label


with polchain.record(
    "run", data=points, augment=shift if KIND == "in-place" else None, batch_size=16, steps=15, every=3
) as run:
    if KIND == "environment":
        torch.manual_seed(int(os.environ.get("CARELESS", "1")))
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    model[0].requires_grad_(KIND != "unfreeze")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    run.attach(model=model, optimizer=optimizer)
    for step, (inputs, labels) in run.batches():
        if step == 9 and KIND == "unfreeze":
            model[0].requires_grad_(True)
        if step == 9 and KIND == "mode":
            model[1].eval()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
