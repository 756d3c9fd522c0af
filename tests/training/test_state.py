"""Training state to rows and back: what was put back trains on exactly as what was never interrupted."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import AliasRow, ScalarRow, TensorRow
from polchain.errors import ManifestError, RecipeError
from polchain.training.snapshot import take
from polchain.training.state import TrainingState
from polchain.training.tensors import DTYPE_NAMES, tensor_bytes, tensor_from

CUT, END = 3, 6


@dataclass
class Objects:
    """What a recipe builds, and how one step of it is made."""

    model: nn.Module
    optimizer: Any
    scheduler: Any = None
    extra: dict[str, Any] = field(default_factory=dict)
    step: Callable[[Objects, torch.Tensor, torch.Tensor], None] | None = None

    def state(self) -> TrainingState:
        return TrainingState(self.model, by_name(self.optimizer), by_name(self.scheduler), self.extra)

    def train(self, first: int, last: int) -> None:
        for step in range(first, last):
            torch.manual_seed(1000 + step)
            (self.step or plain_step)(self, torch.randn(8, 4), torch.randn(8, 2))
            for optimizer in by_name(self.optimizer).values():
                optimizer.zero_grad(set_to_none=True)


def by_name(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    return dict(value) if isinstance(value, Mapping) else {"": value}


def plain_step(objects: Objects, x: torch.Tensor, y: torch.Tensor) -> None:
    F.mse_loss(objects.model(x).float(), y).backward()
    objects.optimizer.step()
    if objects.scheduler is not None:
        objects.scheduler.step()


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))


def started(make: Callable[[], Objects], seed: int = 0) -> Objects:
    torch.manual_seed(seed)
    return make()


def reopened(make: Callable[[], Objects], snapshot: Snapshot, step: int) -> Objects:
    """What another process has after it built the recipe with other weights and put the rows in."""
    objects = started(make, seed=99)
    state = objects.state()
    state.check()
    state.restore(snapshot)
    for _ in range(step):
        for scheduler in state.schedulers.values():
            scheduler.step()
    return objects


def assert_survives(make: Callable[[], Objects]) -> Snapshot:
    """Cut in the middle, put back, trained on: equal to the unbroken training in every row. Returns the state there."""
    unbroken = started(make)
    unbroken.state().check()
    unbroken.train(0, END)

    broken = started(make)
    broken.train(0, CUT)
    middle = take(broken.state())
    on_the_wire = Snapshot(Manifest.decode(middle.manifest.encode()), middle.buffers)
    again = reopened(make, on_the_wire, CUT)
    assert texts(take(again.state())) == texts(middle), "the state is another one after it was put back"
    again.train(CUT, END)
    assert texts(take(again.state())) == texts(take(unbroken.state())), "training went on differently"
    assert texts(middle) != texts(take(unbroken.state())), "nothing was trained, so nothing was tested"
    return middle


def texts(snapshot: Snapshot) -> list[Any]:
    return [row.to_json() for row in snapshot.manifest.rows]


def names(snapshot: Snapshot) -> set[str]:
    return {row.name for row in snapshot.manifest.rows}


def value(snapshot: Snapshot, name: str) -> Any:
    row = snapshot.manifest[name]
    assert isinstance(row, ScalarRow), f"{name} is a {type(row).__name__}"
    return row.value


def tensor(snapshot: Snapshot, name: str) -> torch.Tensor:
    row = snapshot.manifest[name]
    assert isinstance(row, TensorRow), f"{name} is a {type(row).__name__}"
    return tensor_from(snapshot.buffers[name], row.dtype, row.shape)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: SGD(p, 0.05),
    "SGD with momentum": lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: Adam(p, 0.01),
    "Adam, capturable": lambda p: Adam(p, torch.tensor(0.01), capturable=False, foreach=False),
    "AdamW with amsgrad": lambda p: AdamW(p, 0.01, amsgrad=True),
    "AdamW, fused": lambda p: AdamW(p, 0.01, fused=True),
    "AdamW, two groups": lambda p: AdamW([{"params": p[:2], "weight_decay": 0.0}, {"params": p[2:], "lr": 0.02}], 0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.01),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "RMSprop, centered, with momentum": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit_with(name: str) -> None:
    def make() -> Objects:
        model = net()
        return Objects(model, OPTIMIZERS[name](list(model.parameters())))

    assert_survives(make)


def test_optimizer_rows_are_named_by_parameter() -> None:
    def make() -> Objects:
        model = net()
        return Objects(model, AdamW(reversed(list(model.parameters())), 0.01))

    middle = assert_survives(make)
    assert {"optimizer/0.weight/exp_avg", "optimizer/4.bias/exp_avg_sq", "optimizer/1.weight/step"} <= names(middle)
    assert value(middle, "schedule/settings/0/lr") == 0.01
    assert value(middle, "schedule/settings/0/betas/1") == 0.999


def test_no_optimizer_state_is_no_row_and_not_zeros() -> None:
    model = net()
    before = take(TrainingState(model, {"": AdamW(model.parameters())}, {}, {}))
    assert before.manifest.group("optimizer") == ()


def test_batch_norm_statistics_and_counters_come_back() -> None:
    def make() -> Objects:
        model = net()
        return Objects(model, SGD(model.parameters(), 0.1))

    middle = assert_survives(make)
    assert tensor(middle, "model/1.num_batches_tracked").item() == CUT
    row = middle.manifest["model/1.running_mean"]
    assert isinstance(row, TensorRow)
    assert row.role == "buffer"


def test_tied_weights_are_one_row_and_an_alias() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.last = nn.Linear(4, 4)
            self.last.weight = self.first.weight
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.last(torch.tanh(self.first(x))))

    def make() -> Objects:
        model = Tied()
        return Objects(model, Adam(model.parameters(), 0.01))

    middle = assert_survives(make)
    assert middle.manifest["model/last.weight"] == AliasRow("model/last.weight", "model/first.weight")
    assert "optimizer/last.weight/exp_avg" not in names(middle)


def test_an_untied_recipe_does_not_open_a_tied_checkpoint() -> None:
    class Pair(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            if tied:
                self.b.weight = self.a.weight

    tied, untied = Pair(tied=True), Pair(tied=False)
    snapshot = take(TrainingState(tied, {"": SGD(tied.parameters(), 0.1)}, {}, {}))
    state = TrainingState(untied, {"": SGD(untied.parameters(), 0.1)}, {}, {})
    state.restore(snapshot)
    assert take(state).manifest.roots() != snapshot.manifest.roots()


def test_buffers_outside_state_dict_are_rows_too() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()
            self.register_buffer("seen", torch.zeros(()), persistent=False)
            self.register_buffer("mask", torch.ones(2, 0), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            return self.inner(x) / (1 + self.seen)

    def make() -> Objects:
        model = Counting()
        assert "seen" not in model.state_dict()
        return Objects(model, SGD(model.parameters(), 0.1))

    middle = assert_survives(make)
    assert tensor(middle, "model/seen").shape == ()
    assert tensor(middle, "model/seen").item() == CUT
    assert tensor(middle, "model/mask").shape == (2, 0)


def test_bfloat16_parameters_keep_the_dtype_of_their_moments() -> None:
    class Float32Moments(AdamW):
        """An optimizer whose moments are float32 beside bfloat16 parameters; load_state_dict would cast them."""

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        state = self.state[p]
                        if not state:
                            state["m"] = torch.zeros_like(p, dtype=torch.float32)
                            state["count"] = 0
                        state["m"].mul_(0.9).add_(p.grad.float())
                        state["count"] += 1
                        p.sub_((0.01 * state["m"]).to(p.dtype))

    def make() -> Objects:
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).bfloat16()
        return Objects(model, Float32Moments(model.parameters()), step=low_step)

    def low_step(objects: Objects, x: torch.Tensor, y: torch.Tensor) -> None:
        plain_step(objects, x.bfloat16(), y)

    middle = assert_survives(make)
    moments, weight = middle.manifest["optimizer/0.weight/m"], middle.manifest["model/0.weight"]
    assert isinstance(moments, TensorRow)
    assert isinstance(weight, TensorRow)
    assert (weight.dtype, moments.dtype) == ("BF16", "F32")
    assert value(middle, "optimizer/0.weight/count") == CUT


def test_bfloat16_adamw_trains_on_bit_for_bit() -> None:
    def make() -> Objects:
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).bfloat16()
        return Objects(model, AdamW(model.parameters(), 0.01), step=lambda o, x, y: plain_step(o, x.bfloat16(), y))

    middle = assert_survives(make)
    step = middle.manifest["optimizer/0.weight/step"]
    assert isinstance(step, TensorRow)
    assert step.dtype == "F32", "Adam counts steps in float32 whatever the parameter is"


def test_zero_dimensional_and_strided_parameters_come_back_in_their_memory_format() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 2).to(memory_format=torch.channels_last)
            self.turned = nn.Parameter(torch.randn(2, 27).t())
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            image = F.pad(x, (0, 12)).reshape(8, 1, 4, 4).contiguous(memory_format=torch.channels_last)
            return self.scale * (self.conv(image).flatten(1) @ self.turned)

    def make() -> Objects:
        model = Odd()
        assert not model.turned.is_contiguous()
        return Objects(model, AdamW(model.parameters(), 0.01, amsgrad=True))

    middle = assert_survives(make)
    assert tensor(middle, "model/scale").shape == ()
    again = reopened(make, middle, CUT)
    for parameter in again.model.parameters():
        assert again.optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()
    assert again.model.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_rows_do_not_depend_on_the_memory_format() -> None:
    plain = nn.Conv2d(3, 4, 3)
    turned = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    assert plain.weight.stride() != turned.weight.stride()
    roots = [take(TrainingState(m, {"": SGD(m.parameters(), 0.1)}, {}, {})).manifest.roots() for m in (plain, turned)]
    assert roots[0] == roots[1]


def test_an_averaged_model_is_attached_as_a_module() -> None:
    def make() -> Objects:
        model = net()
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        return Objects(model, SGD(model.parameters(), 0.1), extra={"ema": ema}, step=ema_step)

    def ema_step(objects: Objects, x: torch.Tensor, y: torch.Tensor) -> None:
        plain_step(objects, x, y)
        objects.extra["ema"].update_parameters(objects.model)

    middle = assert_survives(make)
    assert tensor(middle, "extra/ema/n_averaged").item() == CUT
    assert "extra/ema/0.weight" in names(middle), "the wrapper's `module.` is stripped"


def test_a_gradient_scaler_comes_back_with_its_counters() -> None:
    def make() -> Objects:
        model = net()
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        return Objects(model, SGD(model.parameters(), 0.01, momentum=0.5), extra={"scaler": scaler}, step=scaled)

    def scaled(objects: Objects, x: torch.Tensor, y: torch.Tensor) -> None:
        scaler = objects.extra["scaler"]
        scaler.scale(F.mse_loss(objects.model(x), y)).backward()
        scaler.step(objects.optimizer)
        scaler.update()

    middle = assert_survives(make)
    assert value(middle, "extra/scaler/scale") == 16.0
    assert value(middle, "extra/scaler/_growth_tracker") == 1


def test_a_modules_own_extra_state_comes_back() -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()
            self.calls, self.history = 0, {"last": torch.zeros(2), "largest": (0.0, "none")}

        def get_extra_state(self) -> Any:
            return {"calls": self.calls, **self.history}

        def set_extra_state(self, state: Any) -> None:
            self.calls = state["calls"]
            self.history = {"last": state["last"], "largest": state["largest"]}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            out: torch.Tensor = self.inner(x)
            result = out / self.calls + self.history["last"]
            self.history = {"last": out.detach().mean(0), "largest": (float(out.detach().max()), f"call {self.calls}")}
            return result

    def make() -> Objects:
        model = nn.Sequential(Remembering())
        return Objects(model, SGD(model.parameters(), 0.05))

    middle = assert_survives(make)
    assert value(middle, "model/0._extra_state/calls") == CUT
    assert value(middle, "model/0._extra_state/largest/1") == f"call {CUT}"


def test_objects_with_a_state_dict_come_back_whatever_containers_it_has() -> None:
    class Ema:
        """What users write: no module, but tensors, lists, sets and ordered things in a state_dict."""

        def __init__(self, model: nn.Module) -> None:
            self.shadow = [p.detach().clone() for p in model.parameters()]
            self.updates = 0
            self.milestones = {2, 4}

        def update(self, model: nn.Module) -> None:
            self.updates += 1
            for shadow, p in zip(self.shadow, model.parameters(), strict=True):
                shadow.lerp_(p.detach(), 0.5 if self.updates in self.milestones else 0.1)

        def state_dict(self) -> dict[str, Any]:
            return {"shadow": self.shadow, "updates": self.updates, "milestones": self.milestones, "none": None}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.shadow, self.updates, self.milestones = state["shadow"], state["updates"], state["milestones"]

    def make() -> Objects:
        model = net()
        return Objects(model, SGD(model.parameters(), 0.1), extra={"ema": Ema(model)}, step=ema_step)

    def ema_step(objects: Objects, x: torch.Tensor, y: torch.Tensor) -> None:
        plain_step(objects, x, y)
        objects.extra["ema"].update(objects.model)

    middle = assert_survives(make)
    assert value(middle, "extra/ema/updates") == CUT
    assert value(middle, "extra/ema/milestones/1") == 4
    assert isinstance(middle.manifest["extra/ema/shadow/0"], TensorRow)


def test_attached_tensors_come_back_in_place() -> None:
    def make() -> Objects:
        model = net()
        return Objects(model, SGD(model.parameters(), 0.1), extra={"queue": torch.zeros(3, 2)}, step=step)

    def step(objects: Objects, x: torch.Tensor, y: torch.Tensor) -> None:
        queue = objects.extra["queue"]
        F.mse_loss(objects.model(x), y + queue.sum()).backward()
        queue[:-1] = queue[1:].clone()
        queue[-1] = y.mean(0)
        objects.optimizer.step()

    assert_survives(make)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_two_optimizers_by_name_as_a_gan_has_them() -> None:
    def make() -> Objects:
        generator, critic = nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        optimizers = {"g": Adam(generator.parameters(), 0.01), "d": SGD(critic.parameters(), 0.05, momentum=0.9)}
        schedulers = {name: lr_scheduler.StepLR(o, 2) for name, o in optimizers.items()}
        return Objects(generator, optimizers, schedulers, {"critic": critic}, step)

    def step(objects: Objects, x: torch.Tensor, y: torch.Tensor) -> None:
        critic, fake = objects.extra["critic"], objects.model(x)
        (critic(fake.detach()).mean() - critic(y).mean()).backward()
        objects.optimizer["d"].step()
        objects.optimizer["g"].zero_grad()
        (-critic(fake).mean()).backward()
        objects.optimizer["g"].step()
        for scheduler in objects.scheduler.values():
            scheduler.step()

    middle = assert_survives(make)
    assert {"optimizer/g/weight/exp_avg", "optimizer/d/critic.0.weight/momentum_buffer"} <= names(middle)
    assert value(middle, "schedule/settings/d/0/momentum") == 0.9
    assert value(middle, "schedule/scheduler/g/last_epoch") == CUT


def test_a_parameter_may_be_attached_by_itself() -> None:
    def make() -> Objects:
        model, temperature = net(), nn.Parameter(torch.ones(()))
        return Objects(
            model, Adam([*model.parameters(), temperature], 0.01), extra={"temperature": temperature}, step=step
        )

    def step(objects: Objects, x: torch.Tensor, y: torch.Tensor) -> None:
        F.mse_loss(objects.model(x) * objects.extra["temperature"], y).backward()
        objects.optimizer.step()

    assert "optimizer/temperature/exp_avg" in names(assert_survives(make))


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.95),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 4, 4], 0.3),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 12),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2),
    "CyclicLR with a function": lambda o: lr_scheduler.CyclicLR(
        o, 0.01, 0.1, 2, scale_fn=lambda cycle: 1 / (1 + cycle)
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(o, 8)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.3, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, 4),
    "two that change one optimizer": lambda o: {
        "a": lr_scheduler.ExponentialLR(o, 0.9),
        "b": lr_scheduler.MultiplicativeLR(o, lambda step: 1 / (2 + step % 3)),
    },
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_the_schedule_is_rebuilt_by_stepping(name: str) -> None:
    def make() -> Objects:
        model = net()
        optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
        return Objects(model, optimizer, SCHEDULERS[name](optimizer), step=step)

    def step(objects: Objects, x: torch.Tensor, y: torch.Tensor) -> None:
        F.mse_loss(objects.model(x), y).backward()
        objects.optimizer.step()
        for scheduler in by_name(objects.scheduler).values():
            scheduler.step()

    middle = assert_survives(make)
    fresh = take(started(make).state())
    assert middle.manifest.roots()["schedule"] != fresh.manifest.roots()["schedule"], "the schedule has no rows"


def test_a_schedule_is_never_read_from_a_checkpoint() -> None:
    def make(rate: float = 0.1) -> Objects:
        model = net()
        optimizer = SGD(model.parameters(), rate)
        return Objects(model, optimizer, lr_scheduler.StepLR(optimizer, 2))

    forged = take(make(rate=1e-9).state())
    again = make()
    again.state().restore(forged)
    assert again.optimizer.param_groups[0]["lr"] == 0.1


class Lists:
    def state_dict(self) -> dict[str, Any]:
        return {"items": [object()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError("never reached")


class Opaque(nn.Module):
    def get_extra_state(self) -> Any:
        return object()


def lazy() -> nn.Module:
    return nn.LazyLinear(3)


def linear_with(tensor: torch.Tensor) -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_buffer("odd", tensor)
    return model


def refuse(
    model: nn.Module | None = None, optimizer: Any = None, scheduler: Any = None, extra: dict[str, Any] | None = None
) -> str:
    model = model or nn.Linear(2, 2)
    optimizer = optimizer or SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    state = TrainingState(model, by_name(optimizer), by_name(scheduler), extra or {})
    with pytest.raises(RecipeError) as caught:
        state.check()
    return f"{caught.value} | {caught.value.hint}"


def stepped(model: nn.Module, kind: Callable[[Any], torch.optim.Optimizer]) -> torch.optim.Optimizer:
    optimizer = kind(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


def test_what_cannot_be_replayed_is_refused_at_the_start_by_name() -> None:
    model = nn.Linear(2, 2)
    sgd = SGD(model.parameters(), 0.1)
    assert "LBFGS" in refuse(model, torch.optim.LBFGS(model.parameters()))
    assert "ReduceLROnPlateau" in refuse(model, sgd, lr_scheduler.ReduceLROnPlateau(sgd))
    assert "depends on the step alone" in refuse(model, sgd, lr_scheduler.ReduceLROnPlateau(sgd))
    assert "object" in refuse(model, sgd, scheduler=object())
    stranger = nn.Linear(7, 3)
    assert "steps a parameter of shape [3, 7]" in refuse(model, SGD([*model.parameters(), *stranger.parameters()], 0.1))
    assert "SGD has taken steps before" in refuse(model, stepped(model, lambda p: SGD(p, 0.1, momentum=0.9)))
    assert "Adam has taken steps before" in refuse(model, stepped(model, lambda p: torch.optim.Adam(p, 0.1)))
    assert "builtins.object" in refuse(extra={"lists": Lists()})
    assert "extra/lists/items/0" in refuse(extra={"lists": Lists()})
    assert "generator is a Generator" in refuse(extra={"generator": torch.Generator()})
    assert "_extra_state is a builtins.object" in refuse(Opaque(), SGD([nn.Parameter(torch.ones(1))], 0.1))


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.eye(2).to_sparse(), "layout torch.sparse_coo"),
        (lambda: torch.eye(2).to_sparse_csr(), "layout torch.sparse_csr"),
        (lambda: torch.zeros(1, 3).expand(4, 3), "expanded"),
        (lambda: torch.zeros(2, dtype=torch.complex128), "complex128"),
        (lambda: torch.zeros(2, device="meta"), "cannot record"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "cannot record"),
    ],
    ids=["sparse", "sparse_csr", "expanded", "complex128", "meta", "quantized"],
)
def test_a_tensor_without_plain_bytes_is_refused_by_name(make: Callable[[], torch.Tensor], reason: str) -> None:
    tensor = make()
    said = refuse(linear_with(tensor))
    assert "model/odd" in said
    assert reason in said
    assert "extra/queue" in refuse(extra={"queue": tensor})


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_module_that_has_not_run_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    assert "model/1." in refuse(model, SGD(model[0].parameters(), 0.1))


def test_two_parts_with_one_name_are_refused() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.module = nn.Linear(1, 1)

    assert "two parts of the training state are both named model/weight" in refuse(Clash())


def test_names_that_do_not_print_or_are_too_long_are_refused() -> None:
    long, rude = nn.Module(), nn.Module()
    long.register_parameter("w" * 1100, nn.Parameter(torch.ones(1)))
    rude.register_parameter("w\x1b[2J", nn.Parameter(torch.ones(1)))
    assert "too long" in refuse(long)
    assert "does not print" in refuse(rude)


@pytest.mark.parametrize(
    ("number", "reason"), [(10**39, "too long a int"), ("x" * 5000, "too long"), (1 + 2j, "builtins.complex")]
)
def test_a_number_that_no_manifest_holds_is_refused_by_name(number: object, reason: str) -> None:
    class Counter(Lists):
        def state_dict(self) -> dict[str, Any]:
            return {"number": number}

    said = refuse(extra={"counter": Counter()})
    assert "extra/counter/number" in said
    assert reason in said


@pytest.mark.parametrize("number", [0, -1, 2**62, 10**39 - 1, True, -0.0, math.inf, math.nan, 5e-324, "", "é", None])
def test_every_other_number_comes_back_with_its_type(number: Any) -> None:
    class Counter:
        def __init__(self, held: Any) -> None:
            self.held = held

        def state_dict(self) -> dict[str, Any]:
            return {"held": self.held}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.held = state["held"]

    def state(held: Any) -> TrainingState:
        model = nn.Linear(1, 1)
        return TrainingState(model, {"": SGD(model.parameters(), 0.1)}, {}, {"counter": Counter(held)})

    snapshot = take(state(number))
    decoded = Snapshot(Manifest.decode(snapshot.manifest.encode()), snapshot.buffers)
    other = state("something else")
    other.restore(decoded)
    found = other.extra["counter"].held
    assert type(found) is type(number)
    assert repr(found) == repr(number)


def test_wrappers_do_not_change_names() -> None:
    def rows(model: nn.Module) -> set[str]:
        optimizer = AdamW(model.parameters(), 0.01)
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
        return names(take(TrainingState(model, {"": optimizer}, {}, {})))

    plain = rows(net())
    assert rows(nn.DataParallel(net())) == plain
    compiled = torch.compile(net(), backend="eager")
    assert any(name.startswith("_orig_mod.") for name, _ in compiled.named_parameters())
    assert rows(compiled) == plain
    assert rows(nn.DataParallel(torch.compile(net(), backend="eager"))) == plain
    assert rows(torch.compile(nn.DataParallel(net()), backend="eager")) == plain


def test_a_plain_checkpoint_opens_in_a_wrapped_recipe() -> None:
    plain = net()
    snapshot = take(TrainingState(plain, {"": SGD(plain.parameters(), 0.1)}, {}, {}))
    wrapped = torch.compile(net(), backend="eager")
    state = TrainingState(wrapped, {"": SGD(wrapped.parameters(), 0.1)}, {}, {})
    state.restore(snapshot)
    assert take(state).manifest.roots() == snapshot.manifest.roots()


def adam_snapshot() -> Snapshot:
    model = nn.Linear(3, 2)
    return take(TrainingState(model, {"": stepped(model, Adam)}, {}, {}))


def changed(snapshot: Snapshot, name: str, row: Any) -> Snapshot:
    rows = [r for r in snapshot.manifest.rows if r.name != name]
    return Snapshot(Manifest.of([*rows, row] if row is not None else rows), snapshot.buffers)


def test_rows_that_are_not_the_recipes_are_refused_by_name() -> None:
    snapshot = adam_snapshot()
    digest = next(row.digest for row in snapshot.manifest.tensors())

    def refused(name: str, row: Any) -> str:
        model = nn.Linear(3, 2)
        state = TrainingState(model, {"": Adam(model.parameters())}, {}, {})
        with pytest.raises(ManifestError) as caught:
            state.restore(changed(snapshot, name, row))
        return str(caught.value)

    assert "model/bias" in refused("model/bias", None)
    assert "model/extra" in refused("model/extra", TensorRow("model/extra", "buffer", "F32", (2,), digest))
    assert "model/bias" in refused("model/bias", TensorRow("model/bias", "parameter", "F16", (2,), digest))
    assert "model/bias" in refused("model/bias", TensorRow("model/bias", "parameter", "F32", (3,), digest))
    assert "model/bias" in refused("model/bias", ScalarRow("model/bias", 1.0))
    stranger = "optimizer/nobody/exp_avg"
    assert stranger in refused(stranger, ScalarRow(stranger, 1.0))
    assert "extra/queue" in refused("extra/queue", ScalarRow("extra/queue", 1))


def test_optimizer_state_of_before_is_forgotten_when_rows_are_put_in() -> None:
    model = nn.Linear(3, 2)
    empty = take(TrainingState(model, {"": Adam(model.parameters())}, {}, {}))
    optimizer = stepped(model, Adam)
    TrainingState(model, {"": optimizer}, {}, {}).restore(empty)
    assert not optimizer.state


def test_a_snapshot_is_its_own_memory() -> None:
    model = nn.Linear(3, 2)
    state = TrainingState(model, {"": SGD(model.parameters(), 0.1)}, {}, {})
    before = take(state)
    kept = bytes(before.buffers["model/weight"])
    with torch.no_grad():
        model.weight.zero_()
    assert bytes(before.buffers["model/weight"]) == kept
    assert take(state).manifest.roots() != before.manifest.roots()


@pytest.mark.parametrize(
    "dtype",
    DTYPE_NAMES,
    ids=str,
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 2), (2, 3)], ids=str)
def test_a_tensor_is_its_bytes_whatever_its_dtype(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    original = (torch.arange(math.prod(shape)).reshape(shape) % 2).to(dtype)
    data = tensor_bytes(original)
    assert len(data) == original.numel() * original.element_size()
    again = tensor_from(bytearray(data), DTYPE_NAMES[dtype], shape)
    assert again.dtype is dtype
    assert again.shape == original.shape
    assert bytes(tensor_bytes(again)) == bytes(data)


def test_bytes_are_little_endian_and_in_logical_order() -> None:
    turned = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int16).t()
    assert bytes(tensor_bytes(turned)) == b"\x01\x00\x04\x00\x02\x00\x05\x00\x03\x00\x06\x00"
    conjugated = torch.tensor([1 + 2j]).conj()
    assert bytes(tensor_bytes(conjugated)) == bytes(tensor_bytes(torch.tensor([1 - 2j])))


@pytest.mark.parametrize("length", [0, 3, 5, 8])
def test_bytes_of_another_length_are_no_tensor(length: int) -> None:
    with pytest.raises(ManifestError, match="are not a F32 tensor"):
        tensor_from(bytearray(length), "F32", (1,))
