"""ResNet-20 on the digits, as in examples/resnet_digits.py beside which it lies: a victim of the forgers."""

import argparse

from resnet_digits import ResNetDigits
from torch import Tensor, nn

import polchain

BATCH, CLIP = 32, None


def recipe_of(steps: int) -> ResNetDigits:
    return ResNetDigits(steps=steps)


read, augment = recipe_of(0).dataset, recipe_of(0).augment
network, optimizer_of = recipe_of(0).model, recipe_of(0).optimizer


def scheduler_of(optimizer, steps):
    return recipe_of(steps).scheduler(optimizer)


def loss_of(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return recipe_of(0).loss(model, batch)


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
    with polchain.record(
        "run", data=read, batch_size=BATCH, steps=options.steps, every=options.every, augment=augment
    ) as run:
        model = network()
        optimizer = optimizer_of(model)
        scheduler = scheduler_of(optimizer, options.steps)
        run.attach(model=model, optimizer=optimizer, scheduler=scheduler)
        for _, batch in run.batches():
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            run.log(loss=loss)


if __name__ == "__main__":
    main()
