"""A small network on handwritten digits, recorded: run it, then verify what it wrote.

    POLCHAIN_DATA=examples/data python examples/quickstart.py

The run lies in runs/quickstart. Started again, it goes on where it stopped.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polchain


def read(held_out: bool) -> list[tuple[Tensor, int]]:
    """Every fifth digit is held out; the rest is for training."""
    table = np.loadtxt(polchain.data_dir() / "digits.csv.gz", delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :64]).reshape(-1, 1, 8, 8) / 16
    labels = table[:, 64].astype(int).tolist()
    return [(images[i], labels[i]) for i in range(len(labels)) if (i % 5 == 0) is held_out]


def digits() -> list[tuple[Tensor, int]]:
    return read(held_out=False)


def accuracy(model: nn.Module) -> float:
    images, labels = zip(*read(held_out=True), strict=True)
    with torch.no_grad():
        return float((model(torch.stack(images)).argmax(1) == torch.tensor(labels)).float().mean())


with polchain.record("runs/quickstart", data=digits, batch_size=64, steps=400, every=10) as run:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run.attach(model=model, optimizer=optimizer)
    for step, (images, labels) in run.batches():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)

# After the loop: a replay ends with its segment, so it never comes here and needs no held-out data.
print(f"accuracy on held-out digits: {accuracy(model):.1%}")
