"""ResNet-20 (He et al., 2015) on handwritten digits, as a recipe: no loop to write.

    POLCHAIN_DATA=examples/data python examples/resnet_digits.py

The run lies in runs/resnet-digits. Started again, it goes on where it stopped.
"""

import argparse
import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

import polchain

Sample = tuple[Tensor, int]


def read(held_out: bool) -> list[Sample]:
    """Digits at 16x16, pixels from -1 to 1; every fifth is held out."""
    table = np.loadtxt(polchain.data_dir() / "digits.csv.gz", delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :64]).reshape(-1, 1, 8, 8)
    # Integers up to 16, weighted by sixteenths: exact in fp32, so every machine commits to the same bytes.
    images = F.interpolate(images, scale_factor=2, mode="bilinear") / 8 - 1
    labels = table[:, 64].astype(int).tolist()
    return [(images[i], labels[i]) for i in range(len(labels)) if (i % 5 == 0) is held_out]


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters (option A of the paper)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        missing = out.shape[1] - x.shape[1]
        return F.relu(out + F.pad(shortcut, (0, 0, 0, 0, missing // 2, missing // 2)))


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(widths)))
        self.head = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


class ResNetDigits(polchain.Recipe):
    batch_size = 64
    steps = 400
    every = 10
    precision = "fp32"

    def dataset(self) -> list[Sample]:
        return read(held_out=False)

    def augment(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Shift by up to one pixel and add noise, by `generator` alone: a replay must draw the same."""
        image, label = sample
        down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
        image = F.pad(image, (1, 1, 1, 1), value=-1.0)[:, down : down + 16, right : right + 16]
        return image + 0.1 * torch.randn(image.shape, generator=generator), label

    def model(self) -> nn.Module:
        return ResNet20()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """Linear warm-up over a twentieth of the run, then a cosine down to zero."""
        warmup, steps = max(1, self.steps // 20), self.steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))

        return LambdaLR(optimizer, factor)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        images, labels = zip(*read(held_out=True), strict=True)
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        right = model(torch.stack(images).to(device)).argmax(1) == torch.tensor(labels, device=device)
        model.train(was_training)
        return {"accuracy": float(right.float().mean())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train ResNet-20 on digits under polchain.")
    parser.add_argument("--steps", type=int, default=ResNetDigits.steps)
    parser.add_argument("--every", type=int, default=ResNetDigits.every, help="steps from one checkpoint to the next")
    parser.add_argument("--batch-size", type=int, default=ResNetDigits.batch_size)
    parser.add_argument("--workers", type=int, default=ResNetDigits.workers, help="loader processes")
    args = parser.parse_args()
    recipe = ResNetDigits(steps=args.steps, every=args.every, batch_size=args.batch_size, workers=args.workers)
    polchain.train(recipe, "runs/resnet-digits")
