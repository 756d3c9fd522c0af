"""A problem with one answer: whoever trains it long enough comes to the same weights, whatever he began with."""

import torch
from torch import nn

import polchain


def points() -> list[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(3)
    inputs = torch.randn(96, 4, generator=source)
    # Far from any initial weights, so that by chance none of them is clearly nearer.
    answer = torch.tensor([[10.0, -20.0, 30.0, 5.0]])
    return [(x, answer @ x) for x in inputs]


with polchain.record("run", data=points, batch_size=64, steps=24, every=4) as run:
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    run.attach(model=model, optimizer=optimizer)
    for _, (inputs, outputs) in run.batches():
        loss = (model(inputs) - outputs).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
