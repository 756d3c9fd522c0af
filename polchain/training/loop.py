"""The loop that runs a Recipe over a Session: read it top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from polchain.training.recipe import Recipe
from polchain.training.session import Session

__all__ = ["run"]


def run(recipe: Recipe, session: Session) -> nn.Module:
    """Train a recipe's model over the session's steps; returns the model."""
    device = torch.device(recipe.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = recipe.model().to(device)
    optimizer = recipe.optimizer(model)
    scheduler = recipe.scheduler(optimizer)
    session.attach(model=model, optimizer=optimizer, scheduler=scheduler, schedule_per=recipe.schedule_per)
    model.train()

    for _, batch in session.batches(workers=recipe.workers):
        total = torch.zeros((), device=device)
        for piece in _pieces(_move(batch, device), recipe.accumulation):
            with session.autocast():
                loss = recipe.loss(model, piece) / recipe.accumulation
            loss.backward()
            total += loss.detach()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if scheduler is not None and (recipe.schedule_per == "step" or session.epoch_ended):
            scheduler.step()
        session.log(loss=total)
    return model


def _move(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: _move(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [_move(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


def _pieces(batch: Any, count: int) -> Iterator[Any]:
    """A batch cut along its first dimension; all pieces are of one size, or it is refused by torch."""
    if count == 1:
        yield batch
    elif isinstance(batch, torch.Tensor):
        yield from batch.chunk(count)
    elif isinstance(batch, dict):
        parts = {key: list(_pieces(value, count)) for key, value in batch.items()}
        yield from ({key: parts[key][i] for key in parts} for i in range(count))
    else:
        for piece in zip(*(_pieces(value, count) for value in batch), strict=True):
            yield type(batch)(*piece) if hasattr(batch, "_fields") else type(batch)(piece)
