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
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from polchain.core.genesis import PRECISIONS, Configuration
from polchain.core.manifest import Snapshot
from polchain.errors import RecipeError, UnavailableError, UsageError
from polchain.training.batches import Augment, BatchMaker, Collate, iterate
from polchain.training.dataset import MapDataset
from polchain.training.fingerprint import CUBLAS_WORKSPACE
from polchain.training.finite import first_not_finite
from polchain.training.randomness import derive_key, seed_everything
from polchain.training.state import TrainingState

__all__ = ["Host", "Options", "Session", "Stretch"]

log = logging.getLogger("polchain")

Every = int | Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Options:
    """What `record` was called with, checked.

    Attributes:
        data: a map-style dataset, or a function that makes one.
        configuration: steps, batch size, interval schedule, precision.
        augment, collate: what happens to samples, and how they become a batch.
        files: more files that belong to the recipe, besides the script and what it imports from its folder.
        store_every: steps from one stored state to the next; 0 to store every one.
    """

    data: MapDataset | Callable[[], MapDataset]
    configuration: Configuration
    augment: Augment | None = None
    collate: Collate | None = None
    files: tuple[Path, ...] = ()
    store_every: int = 0

    def dataset(self) -> MapDataset:
        """The dataset itself; a function is called here."""
        found: Any = self.data
        if isinstance(found, str | bytes | bytearray | Path):
            raise RecipeError(
                f"data is a {type(found).__name__}: polchain opens no files",
                hint="read it in a function, and pass that",
            )
        if isinstance(found, type) or not hasattr(found, "__getitem__"):
            if not callable(found):
                raise RecipeError(f"data is a {type(found).__name__}: neither a map-style dataset nor a function")
            found = found()
        if not hasattr(found, "__len__") or not hasattr(found, "__getitem__"):
            raise RecipeError(
                f"data is a {type(found).__name__}, which has no length or no items by index",
                hint="pass a map-style dataset, or a function that makes one",
            )
        dataset: MapDataset = found
        return dataset


@dataclass(frozen=True, slots=True)
class Stretch:
    """The steps to run, `first` to `last` (excluded); the state after them is a checkpoint, whatever the schedule says.

    `shown` is a step on the way whose state the host wants as well, without a loss: 0 for none.
    """

    first: int
    last: int
    shown: int = 0


class Host(Protocol):
    """Where a session's seed comes from and where its checkpoints go."""

    def begin(self, options: Options) -> tuple[bytes, MapDataset]:
        """The run's seed, and the dataset to read samples from."""

    def attached(self, session: Session) -> Stretch:
        """The objects are known: restore them or record them, and say which steps to run."""

    def indices(self, step: int) -> Sequence[int]:
        """The dataset indices of a step."""

    def sample(self, index: int, encoding: bytes) -> None:
        """A sample was used. Called only where `witnesses` is true."""

    @property
    def witnesses(self) -> bool:
        """Whether `sample` wants to be called."""

    def checkpoint(self, step: int, state: TrainingState, loss: float | None) -> None:
        """The state after `step` steps, a checkpoint or the one to show: its objects, which are trained on as soon as
        this returns. May not return."""

    def finished(self) -> None:
        """All steps were run."""

    def close(self, failed: bool) -> None:
        """The `with` block was left."""


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
        self._before = _Switches()

    def __enter__(self) -> Session:
        self._before = _Switches()
        try:
            _determinism(self.configuration)
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


class _Switches:
    """torch's global switches that `record` sets, as they were before."""

    def __init__(self) -> None:
        self.deterministic = torch.are_deterministic_algorithms_enabled()
        self.warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        self.benchmark = torch.backends.cudnn.benchmark
        self.matmul = torch.backends.cuda.matmul.allow_tf32
        self.cudnn = torch.backends.cudnn.allow_tf32
        self.dtype = torch.get_default_dtype()

    def restore(self) -> None:
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.backends.cudnn.benchmark = self.benchmark
        torch.backends.cuda.matmul.allow_tf32 = self.matmul
        torch.backends.cudnn.allow_tf32 = self.cudnn
        torch.set_default_dtype(self.dtype)


def configure(steps: int, batch_size: int, every: Every, precision: str) -> Configuration:
    """The configuration of a run, from `record`'s arguments.

    Raises:
        UsageError: an argument is out of range.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    pairs = ((0, every),) if isinstance(every, int) else tuple((int(start), int(k)) for start, k in every)
    smallest = min((k for _, k in pairs), default=0)
    for name, value in (("steps", steps), ("batch_size", batch_size), ("every", smallest)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it is at least 1")
    return Configuration(steps, batch_size, pairs, precision, deterministic=True)


def _determinism(configuration: Configuration) -> None:
    if torch.cuda.is_available() and os.environ.get("CUBLAS_WORKSPACE_CONFIG") != CUBLAS_WORKSPACE:
        if torch.cuda.is_initialized():
            raise UnavailableError(
                "CUDA is in use without a fixed cuBLAS workspace, so that steps would not replay",
                hint=f"export CUBLAS_WORKSPACE_CONFIG={CUBLAS_WORKSPACE} before starting Python",
            )
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = CUBLAS_WORKSPACE
    # To set the number of threads, even to what it is, also switches off MKL's own choice. Making batches sets it, but
    # not where a loader's workers make them: so it is always set.
    torch.set_num_threads(torch.get_num_threads())
    torch.use_deterministic_algorithms(configuration.deterministic)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = configuration.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = configuration.precision == "tf32"
    if configuration.precision == "fp64":
        torch.set_default_dtype(torch.float64)


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
