"""A small network with convolutions, norms, attention and dropout: what rounds in other ways, or draws, on a GPU."""

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polchain

WARM = 20  # steps before the clock starts: a GPU's first ones load its kernels


def read() -> list[tuple[Tensor, int]]:
    table = np.loadtxt(polchain.data_dir() / "digits.csv.gz", delimiter=",", dtype=np.float32, max_rows=512)
    images = torch.from_numpy(table[:, :64]).reshape(-1, 1, 8, 8) / 16
    return [(images[i], int(table[i, 64])) for i in range(len(table))]


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)  # batch, 64 places, width
        q, k, v = self.qkv(x).view(len(x), 64, 3, 4, self.width // 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        x = x + F.dropout(self.out(y.transpose(1, 2).flatten(2)), 0.1, self.training)
        return self.head(x.mean(1))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--scaler", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--off", action="store_true", help="train, record nothing")
    options = parser.parse_args(words)
    with polchain.record(
        "run",
        data=read,
        batch_size=64,
        steps=options.steps,
        every=options.every,
        precision=options.precision,
        enabled=not options.off,
    ) as run:
        model = Network(options.width).to(options.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
        scaler = torch.amp.GradScaler(options.device) if options.scaler else None
        run.attach(model=model, optimizer=optimizer, scaler=scaler)
        forward = torch.compile(model) if options.compile else model
        for step, (images, labels) in run.batches():
            if step == WARM:
                _wait(options.device)
                begun = time.monotonic()
            with run.autocast() if options.precision == "bf16" else nullcontext():
                loss = F.cross_entropy(forward(images.to(options.device)), labels.to(options.device))
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad(set_to_none=True)
            run.log(loss=loss)
    if options.steps > WARM:
        # Never in a replay, which ends with its segment.
        _wait(options.device)
        print(f"{(time.monotonic() - begun) / (options.steps - WARM):.6f} seconds a step")


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
