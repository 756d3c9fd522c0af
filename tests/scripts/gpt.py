"""The small GPT of examples/gpt_shakespeare.py, beside which it lies, on 5 KB of its text: a victim of the forgers."""

import argparse

from gpt_shakespeare import GPT, adamw, cross_entropy, shakespeare, warmup_cosine
from torch import Tensor, nn
from torch.utils.data import Subset

import polchain

BATCH, CLIP = 4, 1.0
WINDOWS = 160  # 40 steps an epoch

network, optimizer_of, scheduler_of, augment = GPT, adamw, warmup_cosine, None


def read() -> Subset[tuple[Tensor, Tensor]]:
    return Subset(shakespeare(), range(WINDOWS))


def loss_of(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return cross_entropy(model, *batch)


def interval_of(text: str) -> int | list[tuple[int, int]]:
    """`5`, or a schedule such as `0:1,40:60,100:1`: from step 40 on, a checkpoint every 60."""
    if ":" not in text:
        return int(text)
    return [(int(start), int(k)) for start, _, k in (part.partition(":") for part in text.split(","))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=interval_of, default=5)
    options = parser.parse_args()
    with polchain.record("run", data=read, batch_size=BATCH, steps=options.steps, every=options.every) as run:
        model = network()
        optimizer = optimizer_of(model)
        scheduler = scheduler_of(optimizer, options.steps)
        run.attach(model=model, optimizer=optimizer, scheduler=scheduler)
        for _, batch in run.batches():
            loss = loss_of(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            run.log(loss=loss)


if __name__ == "__main__":
    main()
