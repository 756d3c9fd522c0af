"""A recipe whose state is large and whose steps are short: what recording takes of memory shows in it.

python benchmarks/recipes/wide.py --megabytes 300 --steps 12 --every 2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import nn

import polchain

LAYERS = 24


def numbers() -> Sequence[torch.Tensor]:
    """64 samples, each the same one number."""
    return [torch.tensor([float(i % 2)]) for i in range(64)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train wide layers under AdamW: three tensors to a parameter.")
    parser.add_argument("--megabytes", type=int, default=300, help="of parameters and moments together")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=2)
    args = parser.parse_args()
    width = int((args.megabytes * 1e6 / 12 / LAYERS) ** 0.5)
    with polchain.record("runs/wide", data=numbers, batch_size=2, steps=args.steps, every=args.every) as run:
        model = nn.Sequential(*(nn.Linear(width, width) for _ in range(LAYERS)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        run.attach(model=model, optimizer=optimizer)
        for _, batch in run.batches():
            loss = model(batch.expand(-1, width)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            run.log(loss=loss)


if __name__ == "__main__":
    main()
