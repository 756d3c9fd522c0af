"""The session: seeded batches in, checkpoints out. The one way to train and the one way to replay.

A session does the same whoever runs it; what differs is its host, which says where the seed comes from, which steps
are run, and where a checkpoint goes:

    host                   begin              attached                       checkpoint
    prover's recorder      the run's seed     restore, or record step 0      copy; the rest follows behind
    enabled=False          the run's seed     nothing                        nothing
    a verifier's child     the claim's seed   restore the opening rows       send the closing rows, end
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from polchain.core.manifest import Snapshot
from polchain.errors import RecipeError, UsageError
from polchain.training.batches import BatchMaker, iterate
from polchain.training.finite import first_not_finite
from polchain.training.host import Host, Options, Stretch
from polchain.training.randomness import derive_key, seed_everything
from polchain.training.state import TrainingState
from polchain.training.switches import Switches, set_switches

__all__ = ["Session"]

log = logging.getLogger("polchain")


class Session:
    """One run, as its script sees it. Made by `polchain.record`; `run` in the examples."""

    def __init__(self, host: Host, options: Options) -> None:
        self.host = host
        self.options = options
        self.configuration = options.configuration
        self.step = 0
        self._state: TrainingState | None = None
        self._running = False
        self._per_epoch = False
        self._scaled = False
        self._losses: list[torch.Tensor | float] = []
        self._stepped: dict[str, int] = {}
        self._before = Switches()

    def __enter__(self) -> Session:
        self._before = Switches()
        try:
            set_switches(self.configuration)
            self.seed, dataset = self.host.begin(self.options)
            if len(dataset) < self.configuration.batch_size:
                raise UsageError(
                    f"the dataset has {len(dataset)} samples, less than one batch", hint="use a smaller batch_size"
                )
        except BaseException:
            self._before.restore()
            self.host.close(failed=True)
            raise
        self._steps_per_epoch = len(dataset) // self.configuration.batch_size
        self._maker = BatchMaker(dataset, self.seed, self.options.augment, self.options.collate)
        if self.host.witnesses:
            self._maker.witness = self.host.sample
        seed_everything(derive_key(self.seed, "init"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._before.restore()
        self.host.close(failed=kind is not None)

    def attach(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer | Mapping[str, Optimizer],
        scheduler: Any = None,
        schedule_per: str = "step",
        scaler: Any = None,
        **extra: Any,
    ) -> None:
        """Say what the training state is: everything that crosses steps.

        Args:
            model: the model.
            optimizer: an optimizer, or several by name.
            scheduler: a torch scheduler, or several by name; stepped by the loop.
            schedule_per: whether the loop steps the scheduler once per "step" or once per "epoch".
            scaler: a gradient scaler.
            extra: anything else that crosses steps, by name: EMA, a second model, tensors.

        Raises:
            RecipeError: something of it cannot be recorded or replayed; it is named.
        """
        if self._state is not None:
            raise RecipeError("attach was called twice", hint="attach everything in one call")
        if schedule_per not in ("step", "epoch"):
            raise RecipeError("schedule_per is 'step' or 'epoch'")
        others = dict(extra) if scaler is None else {**extra, "scaler": scaler}
        self._scaled = scaler is not None
        self._per_epoch = schedule_per == "epoch"
        state = TrainingState(model, _by_name(optimizer), _by_name(scheduler), others)
        state.check()
        self._state = state
        self._settings = state.settings()
        for name, each in state.optimizers.items():
            self._stepped[name] = 0
            each.register_step_post_hook(self._count(name))
        self._stretch = self.host.attached(self)
        self.step = self._stretch.first

    @property
    def state(self) -> TrainingState:
        """The attached objects.

        Raises:
            RecipeError: nothing was attached yet.
        """
        if self._state is None:
            raise RecipeError("nothing is attached", hint="call run.attach(model=..., optimizer=...) before the loop")
        return self._state

    @property
    def epoch_ended(self) -> bool:
        """True in the last step of an epoch: where a scheduler stepped per epoch is stepped."""
        return (self.step + 1) % self._steps_per_epoch == 0

    def batches(self, workers: int = 0) -> Iterator[tuple[int, Any]]:
        """Step numbers and batches, in the order that the seed gives.

        Raises:
            RecipeError: the loop does something between steps that could not be replayed; it is named.
        """
        state, stretch = self.state, self._stretch
        if self._running:
            raise RecipeError(
                "batches was called twice",
                hint="run.batches() gives every step of the run, across epochs: loop over it once",
            )
        self._running = True
        plans = _Plans(self.host, stretch)
        # What a loader's worker is shown stays in the worker: a witness needs the samples here. The bits are the same.
        batches = iterate(self._maker, plans, 0 if self.host.witnesses else workers)
        goal = min(self._next_checkpoint(stretch.first), stretch.last)
        self._losses = []
        for step in range(stretch.first, stretch.last):
            self.step = step
            batch = next(batches)
            if self.configuration.precision == "fp64":
                batch = _to_double(batch)
            for name in self._stepped:
                self._stepped[name] = 0
            # After the batch is in hand: reading it may have used the generators.
            seed_everything(derive_key(self.seed, "step", step))
            yield step, batch
            self._after_step(state, first=step == stretch.first)
            if step + 1 == goal:
                self._before_checkpoint(state)
                self.host.checkpoint(goal, state, self._mean_loss())
                goal = min(self._next_checkpoint(goal), stretch.last)
            elif step + 1 == stretch.shown:
                self.host.checkpoint(step + 1, state, None)
        self.host.finished()

    def log(self, *, loss: torch.Tensor | float) -> None:
        """Log the loss of this step; its mean since the last checkpoint is in the log entry, where it is finite."""
        if isinstance(loss, torch.Tensor) and loss.numel() != 1:
            raise RecipeError(f"the loss of step {self.step} has shape {list(loss.shape)}: log one number")
        if isinstance(loss, torch.Tensor) and not loss.is_complex():
            # Copied: the loop may go on adding to it in place.
            self._losses.append(loss.detach().clone())
            return
        try:
            if isinstance(loss, str | bytes):  # which float() may read
                raise TypeError
            self._losses.append(float(loss))
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise RecipeError(f"the loss of step {self.step} is a {type(loss).__name__}: log one number") from None

    def report(self, name: str, value: float) -> None:
        """Say a figure of the trained model, through the logger; it is not evidence."""
        log.info("%s %.4g", name, value)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that the precision asks for: bfloat16 autocast for "bf16", none otherwise."""
        if self.configuration.precision == "bf16":
            return torch.autocast(self.state.device().type, dtype=torch.bfloat16)
        return nullcontext()

    def rewind(self, snapshot: Snapshot, step: int) -> None:
        """Put the state of `step` into the attached objects: its rows, and a schedule stepped there from the start.

        Raises:
            ManifestError: the rows do not fit the objects.
        """
        self.state.restore(snapshot)
        times = step // self._steps_per_epoch if self._per_epoch else step
        for optimizer in self.state.optimizers.values():
            # The scheduler warns where it is stepped before its optimizer; here the optimizer's steps are past.
            optimizer._opt_called = True  # type: ignore[attr-defined]
        for _ in range(times):
            for scheduler in self.state.schedulers.values():  # in turn: two of them may change one optimizer
                scheduler.step()

    def _next_checkpoint(self, step: int) -> int:
        return self.configuration.next_checkpoint(step)

    def _mean_loss(self) -> float | None:
        losses = [float(loss) for loss in self._losses]
        self._losses = []
        if not losses or not all(math.isfinite(loss) for loss in losses):
            return None
        # Not sum(): since Python 3.12 it rounds in another way, and the mean is in a signed entry.
        return math.fsum(loss / len(losses) for loss in losses)

    def _count(self, name: str) -> Callable[..., None]:
        def hook(optimizer: Optimizer, arguments: Any, keywords: Any) -> None:
            self._stepped[name] += 1

        return hook

    def _after_step(self, state: TrainingState, *, first: bool) -> None:
        for name, count in self._stepped.items():
            what = f"optimizer {name}" if name else "the optimizer"
            if count > 1:
                raise RecipeError(f"{what} was stepped {count} times in step {self.step}", hint="a step is one batch")
            if count == 0 and not self._scaled:
                raise RecipeError(
                    f"{what} was not stepped in step {self.step}",
                    hint="a step is one batch from run.batches(): accumulate gradients over pieces of it",
                )
        for parameter in state.parameters():
            parameter.grad = None  # no gradient crosses steps, whatever the loop does
        done = self.step + 1
        times = done // self._steps_per_epoch if self._per_epoch else done
        for scheduler in state.schedulers.values():
            if getattr(scheduler, "last_epoch", times) != times:
                raise RecipeError(
                    f"after step {self.step} the scheduler was stepped {scheduler.last_epoch} times, not {times}",
                    hint="step it once per step; or, with attach(schedule_per='epoch'), where run.epoch_ended",
                )
        if first:
            state.capture()  # refuses, by name, optimizer state that is neither tensor nor number
            self._check_settings(state)

    def _before_checkpoint(self, state: TrainingState) -> None:
        self._check_settings(state)
        name = first_not_finite(state.model)
        if name is not None:
            raise RecipeError(
                f"training diverged: after step {self.step} {name} is not finite",
                hint="lower the learning rate, or clip gradients; the checkpoints until here are kept",
            )

    def _check_settings(self, state: TrainingState) -> None:
        if state.schedulers:
            return
        now = state.settings()
        changed = sorted(
            name for name in now.keys() | self._settings.keys() if now.get(name) != self._settings.get(name)
        )
        if changed:
            raise RecipeError(
                f"the loop changes the optimizer's settings itself: {changed[0]}",
                hint="use a scheduler (LambdaLR takes any function of the step) and attach it",
            )


class _Plans:
    """The (step, indices) pairs of a stretch, computed as they are asked for."""

    def __init__(self, host: Host, stretch: Stretch) -> None:
        self.host = host
        self.stretch = stretch

    def __iter__(self) -> Iterator[tuple[int, Sequence[int]]]:
        return ((step, self.host.indices(step)) for step in range(self.stretch.first, self.stretch.last))

    def __len__(self) -> int:
        return self.stretch.last - self.stretch.first


def _by_name(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        if any(not str(name).isidentifier() for name in value):
            raise RecipeError("names of optimizers and schedulers are Python identifiers")
        return dict(value)
    return {"": value}


def _to_double(batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, Mapping):
        return {key: _to_double(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [_to_double(value) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
