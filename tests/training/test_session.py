"""The session: what a loop may do, what it is refused by name, and scripts recorded as a user records them."""

from __future__ import annotations

import signal
import textwrap
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, lr_scheduler

from polchain.core.entries import CheckpointEntry, Final, parse_entry
from polchain.core.manifest import Snapshot
from polchain.errors import RecipeError, UsageError
from polchain.prover.record import record
from polchain.storage.ledger import Ledger
from polchain.training.dataset import decode_sample
from polchain.training.host import configure
from polchain.training.session import Session

Make = Callable[..., Session]
DATA = [(torch.tensor([i / 12, 1 - i / 12]), torch.tensor([float(i % 2)])) for i in range(12)]


def pieces(session: Session, **attach: Any) -> tuple[nn.Module, SGD]:
    """The model and optimizer of most tests, attached."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    session.attach(model=model, optimizer=optimizer, **attach)
    return model, optimizer


def train(session: Session, workers: int = 0, stop: int | None = None) -> None:
    with session as run:
        model, optimizer = pieces(run)
        for step, (x, y) in run.batches(workers=workers):
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            if step == stop:
                break


def roots(session: Session) -> dict[int, Any]:
    return {step: snapshot.manifest.roots() for step, snapshot in session.host.checkpoints.items()}  # type: ignore[attr-defined]


# --- the same bits, whoever trains


def test_checkpoints_come_at_the_interval_and_at_the_end(memory_session: Make) -> None:
    session = memory_session(data=DATA, steps=7, every=[(0, 1), (2, 3)])
    train(session)
    assert list(roots(session)) == [1, 2, 5, 7]
    assert session.host.ended  # type: ignore[attr-defined]


def test_one_seed_gives_one_training_and_another_seed_another(memory_session: Make) -> None:
    first, second = memory_session(data=DATA), memory_session(data=DATA)
    other = memory_session(memory_session.host(seed=bytes(32)), data=DATA)  # type: ignore[attr-defined]
    for session in (first, second, other):
        torch.rand(3)  # what was drawn before does not matter
        train(session)
    assert roots(first) == roots(second)
    assert first.host.losses == second.host.losses  # type: ignore[attr-defined]
    assert all(roots(first)[step]["model"] != roots(other)[step]["model"] for step in roots(first))


def test_a_segment_replays_from_its_opening_state_alone(memory_session: Make) -> None:
    whole = memory_session(data=DATA)
    train(whole)
    opening: Snapshot = whole.host.checkpoints[4]  # type: ignore[attr-defined]
    part = memory_session(memory_session.host(opening=(4, opening), last=6), data=DATA)  # type: ignore[attr-defined]
    train(part)
    assert roots(part) == {6: roots(whole)[6]}
    assert part.host.losses[6] == whole.host.losses[6]  # type: ignore[attr-defined]


def test_a_schedule_is_rebuilt_in_the_order_of_the_loop(memory_session: Make) -> None:
    def train(session: Session) -> None:
        with session as run:
            model = nn.Linear(2, 1)
            optimizer = SGD(model.parameters(), 0.1)
            both = {
                "fall": lr_scheduler.ExponentialLR(optimizer, 0.9),
                "wave": lr_scheduler.MultiplicativeLR(optimizer, lambda step: 1 / (2 + step % 3)),
            }
            run.attach(model=model, optimizer=optimizer, scheduler=both)
            for _, (x, _y) in run.batches():
                model(x).sum().backward()
                optimizer.step()
                for scheduler in both.values():
                    scheduler.step()

    whole = memory_session(data=DATA)
    train(whole)
    for step in (2, 4, 6):
        opening = (step, whole.host.checkpoints[step])  # type: ignore[attr-defined]
        host = memory_session.host(opening=opening, last=step + 2)  # type: ignore[attr-defined]
        train(memory_session(host, data=DATA))
        assert host.opened.manifest.rows == opening[1].manifest.rows, f"the state of step {step} is another one"
        assert host.checkpoints[step + 2].manifest.roots() == roots(whole)[step + 2]


def test_the_mean_loss_is_of_the_steps_since_the_last_checkpoint(memory_session: Make) -> None:
    session = memory_session(data=DATA, steps=5, every=2)
    with session as run:
        model, optimizer = pieces(run)
        running = torch.zeros(())
        for step, (x, _) in run.batches():
            model(x).sum().backward()
            optimizer.step()
            running += step
            run.log(loss=running)  # a tensor that goes on changing
    assert session.host.losses == {2: 0.5, 4: 4.5, 5: 10.0}  # type: ignore[attr-defined]


def test_a_loss_that_is_not_finite_is_left_out(memory_session: Make) -> None:
    session = memory_session(data=DATA, steps=4, every=2)
    with session as run:
        model, optimizer = pieces(run)
        for step, (x, _) in run.batches():
            model(x).sum().backward()
            optimizer.step()
            run.log(loss=float("inf") if step == 1 else 1.0)
    assert session.host.losses == {2: None, 4: 1.0}  # type: ignore[attr-defined]


AUGMENTS: dict[str, Callable[[Any, torch.Generator], Any]] = {
    "its generator": lambda sample, g: (sample[0] + torch.rand(2, generator=g), sample[1]),
    "torch": lambda sample, g: (sample[0] + torch.rand(2), sample[1]),
    "numpy": lambda sample, g: (sample[0] + float(np.random.rand()), sample[1]),
    "random": lambda sample, g: (sample[0] + __import__("random").random(), sample[1]),
}


@pytest.mark.parametrize("source", AUGMENTS)
def test_augmentation_is_the_same_here_and_in_two_workers(memory_session: Make, source: str) -> None:
    sessions = [memory_session(data=DATA, augment=AUGMENTS[source]) for _ in range(3)]
    for session, workers in zip(sessions, (0, 1, 2), strict=True):
        train(session, workers=workers)
    assert roots(sessions[0]) == roots(sessions[1]) == roots(sessions[2])
    plain = memory_session(data=DATA)
    train(plain)
    assert roots(plain) != roots(sessions[0]), "the augmentation did nothing, so nothing was tested"


Pair = namedtuple("Pair", ["x", "y"])


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_a_batch_is_what_collate_made_whatever_made_it(memory_session: Make, precision: str) -> None:
    def collate(samples: list[Any]) -> Any:
        return Pair({"a": torch.stack([s[0] for s in samples])}, [np.float32(1.5), "text", np.arange(3)])

    seen = []
    for workers in (0, 1):
        session = memory_session(data=DATA, steps=1, collate=collate, precision=precision)
        with session as run:
            model, optimizer = pieces(run)
            for _, batch in run.batches(workers=workers):
                seen.append(batch)
                model(batch.x["a"]).sum().backward()
                optimizer.step()
    for batch in seen:
        assert [type(part) for part in batch.y] == [np.float32, str, np.ndarray]
        assert batch.x["a"].dtype == (torch.float64 if precision == "fp64" else torch.float32)
    assert torch.equal(seen[0].x["a"], seen[1].x["a"])


def test_a_witness_is_shown_every_sample_in_order_whatever_the_workers(memory_session: Make) -> None:
    host = memory_session.host(witnesses=True)  # type: ignore[attr-defined]
    session = memory_session(host, data=DATA, steps=3)
    train(session, workers=2)
    assert [index for index, _ in host.samples] == [index for step in range(3) for index in host.order.indices(step)]
    assert all(torch.equal(decode_sample(encoding)[0], DATA[index][0]) for index, encoding in host.samples)


def test_torchs_switches_are_put_back(memory_session: Make) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with memory_session(precision="fp64"):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_default_dtype() is torch.float64
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_default_dtype() is torch.float32


def test_a_session_that_cannot_begin_leaves_nothing_behind(memory_session: Make) -> None:
    session = memory_session(data=DATA, batch_size=13, precision="fp64")
    with pytest.raises(UsageError, match="12 samples"), session:
        pytest.fail("the session began")
    assert session.host.closed == [True]  # type: ignore[attr-defined]
    assert torch.get_default_dtype() is torch.float32


# --- what a loop is refused


def refused(session: Session, loop: Callable[[Session], None]) -> str:
    with pytest.raises(RecipeError) as caught:
        inside(session, loop)
    assert session.host.closed == [True], "the host was not told"  # type: ignore[attr-defined]
    return f"{caught.value} | {caught.value.hint}"


def inside(session: Session, loop: Callable[[Session], None]) -> None:
    with session as run:
        loop(run)


def stepping(body: Callable[[int, SGD], object]) -> Callable[[Session], None]:
    """A loop that does nothing unusual, but for what `body` does in place of `optimizer.step()`."""

    def loop(run: Session) -> None:
        model, optimizer = pieces(run)
        for step, (x, y) in run.batches():
            F.mse_loss(model(x), y).backward()
            body(step, optimizer)

    return loop


def test_a_step_without_an_optimizer_step_is_refused(memory_session: Make) -> None:
    said = refused(memory_session(data=DATA), stepping(lambda step, optimizer: step % 3 == 2 or optimizer.step()))
    assert "the optimizer was not stepped in step 2" in said
    assert "accumulate gradients over pieces" in said


def test_two_optimizer_steps_in_a_step_are_refused(memory_session: Make) -> None:
    said = refused(memory_session(data=DATA), stepping(lambda step, optimizer: (optimizer.step(), optimizer.step())))
    assert "the optimizer was stepped 2 times in step 0" in said


def test_the_optimizer_is_named_where_there_are_several(memory_session: Make) -> None:
    def loop(run: Session) -> None:
        model, other = nn.Linear(1, 1), nn.Linear(1, 1)
        both = {"early": SGD(model.parameters(), 0.1), "late": SGD(other.parameters(), 0.1)}
        run.attach(model=model, optimizer=both, other=other)
        for step, _ in run.batches():
            both["early"].step()
            if step == 0:
                both["late"].step()

    assert "optimizer late was not stepped in step 1" in refused(memory_session(), loop)


@pytest.mark.parametrize("at", [0, 5])
def test_a_learning_rate_set_by_hand_is_refused(memory_session: Make, at: int) -> None:
    def body(step: int, optimizer: SGD) -> None:
        optimizer.step()
        if step == at:
            optimizer.param_groups[0]["lr"] = 0.01

    said = refused(memory_session(data=DATA), stepping(body))
    assert "schedule/settings/0/lr" in said
    assert "use a scheduler" in said


def test_a_scheduler_that_is_not_stepped_is_refused(memory_session: Make) -> None:
    def loop(run: Session) -> None:
        model = nn.Linear(2, 1)
        optimizer = SGD(model.parameters(), 0.1)
        run.attach(model=model, optimizer=optimizer, scheduler=lr_scheduler.StepLR(optimizer, 2))
        for _ in run.batches():
            optimizer.step()

    assert "the scheduler was stepped 0 times, not 1" in refused(memory_session(data=DATA), loop)


def per_epoch(run: Session, rates: list[float], *, every_step: bool) -> None:
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters(), 1.0)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    run.attach(model=model, optimizer=optimizer, scheduler=scheduler, schedule_per="epoch")
    for _ in run.batches():
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if every_step or run.epoch_ended:
            scheduler.step()


def test_a_scheduler_may_be_stepped_once_per_epoch(memory_session: Make) -> None:
    rates: list[float] = []
    inside(memory_session(data=DATA, steps=7), lambda run: per_epoch(run, rates, every_step=False))
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25], "three steps are an epoch here"
    said = refused(memory_session(data=DATA, steps=7), lambda run: per_epoch(run, rates, every_step=True))
    assert "the scheduler was stepped 1 times, not 0" in said


def test_gradients_do_not_cross_steps(memory_session: Make) -> None:
    session = memory_session(data=DATA, steps=3)
    with session as run:
        model, optimizer = pieces(run)
        for _, (x, y) in run.batches():
            assert all(p.grad is None for p in model.parameters())
            F.mse_loss(model(x), y).backward()
            optimizer.step()  # and no zero_grad


def test_a_gradient_scaler_may_skip_a_step(memory_session: Make) -> None:
    session = memory_session(data=DATA, steps=4)
    with session as run:
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        model, optimizer = pieces(run, scaler=scaler)
        for step, (x, _) in run.batches():
            loss = model(x).sum() * (float("inf") if step == 1 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 2.0
    assert 4 in roots(session)


def test_a_training_that_diverged_is_refused_by_the_parameter(memory_session: Make) -> None:
    def body(step: int, optimizer: SGD) -> None:
        optimizer.step()
        if step == 3:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][1].fill_(float("nan"))

    session = memory_session(data=DATA)
    assert "training diverged: after step 3 0.bias is not finite" in refused(session, stepping(body))
    assert list(roots(session)) == [2]


def test_looping_twice_over_the_batches_is_refused(memory_session: Make) -> None:
    def loop(run: Session) -> None:
        _, optimizer = pieces(run)
        for _epoch in range(2):
            for _ in run.batches():
                optimizer.step()

    session = memory_session(data=DATA, steps=2)
    assert "batches was called twice" in refused(session, loop)
    assert list(roots(session)) == [2]


def test_attaching_twice_or_never_is_refused(memory_session: Make) -> None:
    def twice(run: Session) -> None:
        pieces(run)
        pieces(run)

    assert "attach was called twice" in refused(memory_session(data=DATA), twice)
    assert "nothing is attached" in refused(memory_session(data=DATA), lambda run: next(iter(run.batches())))


def test_a_loss_that_is_no_number_is_refused(memory_session: Make) -> None:
    def loop(run: Session) -> None:
        model, _ = pieces(run)
        for _, (x, _y) in run.batches():
            run.log(loss=model(x))

    assert "the loss of step 0 has shape [4, 1]" in refused(memory_session(data=DATA), loop)


@pytest.mark.parametrize("loss", ["0.5", b"1", None, [1.0], np.ones(2), 1j, torch.tensor(1j)], ids=repr)
def test_a_loss_that_is_neither_tensor_nor_number_is_refused(memory_session: Make, loss: Any) -> None:
    def loop(run: Session) -> None:
        pieces(run)
        for _ in run.batches():
            run.log(loss=loss)

    said = refused(memory_session(data=DATA), loop)
    assert f"the loss of step 0 is a {type(loss).__name__}: log one number" in said


@pytest.mark.parametrize("loss", [1, np.float32(1.0), torch.ones((), dtype=torch.int64)], ids=repr)
def test_any_number_is_a_loss(memory_session: Make, loss: Any) -> None:
    session = memory_session(data=DATA, steps=1, every=1)
    with session as run:
        model, optimizer = pieces(run)
        for _, (x, _y) in run.batches():
            model(x).sum().backward()
            optimizer.step()
            run.log(loss=loss)
    assert session.host.losses == {1: 1.0}  # type: ignore[attr-defined]


def test_state_of_a_kind_that_cannot_be_recorded_is_refused_after_the_first_step(memory_session: Make) -> None:
    class Historic(SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for p in self.param_groups[0]["params"]:
                self.state[p]["history"] = [1, 2, 3]

    def loop(run: Session) -> None:
        model = nn.Linear(1, 1)
        optimizer = Historic(model.parameters(), 0.1)
        run.attach(model=model, optimizer=optimizer)
        for _ in run.batches():
            optimizer.step()

    assert "optimizer/bias/history is a builtins.list" in refused(memory_session(), loop).replace("weight", "bias")


class NoLength:
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


@pytest.mark.parametrize(
    "data", [NoLength(), NoLength, lambda: NoLength(), 7, {1}], ids=["object", "class", "function", "number", "set"]
)
def test_data_that_has_no_samples_by_index_is_refused(memory_session: Make, data: Any) -> None:
    with pytest.raises(RecipeError, match="data is a"), memory_session(data=data):
        pytest.fail("the session began")


@pytest.mark.parametrize("data", ["data.csv", b"data", Path("data")], ids=["text", "bytes", "path"])
def test_a_name_is_not_data(memory_session: Make, data: Any) -> None:
    with pytest.raises(RecipeError, match="polchain opens no files") as caught, memory_session(data=data):
        pytest.fail("the session began")
    assert "read it in a function" in caught.value.hint


def test_arguments_out_of_range_are_refused() -> None:
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((0, 1, 1, "fp32"), "steps is 0"),
        ((1, -2, 1, "fp32"), "batch_size is -2"),
        ((1, 1, 0, "fp32"), "every is 0"),
        ((1, 1, [(0, 5), (9, 0)], "fp32"), "every is 0"),
        ((1, 1, [], "fp32"), "every"),
        ((1, 1, 1, "fp16"), "precision 'fp16'"),
    ]
    for arguments, words in cases:
        with pytest.raises(UsageError, match=words):
            configure(*arguments)


@pytest.mark.parametrize("value", [0, 2.5, float("nan"), "10", True, torch.tensor(10)])
def test_states_are_stored_each_whole_number_of_steps(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"store_every is .*; it is a whole number of steps"):
        record(tmp_path / "run", data=[1.0], batch_size=1, steps=1, store_every=value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["a/b", "", "1"])
def test_optimizers_are_named_by_identifiers(memory_session: Make, name: str) -> None:
    model = nn.Linear(1, 1)
    optimizers = {name: SGD(model.parameters(), 0.1)}
    assert "identifiers" in refused(memory_session(), lambda run: run.attach(model=model, optimizer=optimizers))


# --- scripts

HEAD = """
    import sys, time
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional as F
    import polchain
"""

SCRIPT = (
    HEAD
    + """
    def data():
        rows = np.load(polchain.data_dir() / "rows.npy")
        return [(torch.from_numpy(row[:4].copy()), int(row[4] > 0)) for row in rows]

    def augment(sample, generator):
        x, y = sample
        x = x + 0.1 * torch.randn(4, generator=generator) + 0.1 * torch.rand(4)
        return x + 0.1 * float(np.random.rand()), y

    def main(workers=0, **more):
        with polchain.record("run", data=data, batch_size=8, steps=12, every=3, augment=augment, **more) as run:
            model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
            optimizer = torch.optim.AdamW(model.parameters(), 0.01)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, 14)
            run.attach(model=model, optimizer=optimizer, scheduler=scheduler)
            for step, (x, y) in run.batches(workers=workers):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad(set_to_none=True)
                run.log(loss=loss)
        return model

    if __name__ == "__main__":
        model = main(**SETTINGS)
        torch.save(model.state_dict(), "weights.pt")
    """
)


def script(**settings: Any) -> str:
    return textwrap.dedent(SCRIPT).replace("SETTINGS", repr(settings))


@pytest.fixture
def rows(desk: Any) -> Path:
    path: Path = desk.folder / "rows.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 5)).astype("f4"))
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)
    return loaded


def entries(folder: Path) -> list[bytes]:
    with Ledger(folder / "run") as ledger:
        ledger.check()
        return list(ledger.entries())


def test_recording_does_not_change_the_training_and_neither_do_workers(desk: Any, rows: Path) -> None:
    desk.write(script())
    recorded = desk.start()
    assert recorded.wait(timeout=120) == 0, recorded.communicate()[0]
    logged = [parse_entry(data) for data in entries(desk.folder)]
    assert [type(entry).__name__ for entry in logged] == ["Genesis", "Start", *["CheckpointEntry"] * 5, "Final"]
    assert [entry.step for entry in logged if isinstance(entry, CheckpointEntry | Final)] == [0, 3, 6, 9, 12, 12]
    assert all(e.loss is not None and e.update is not None for e in logged[3:] if isinstance(e, CheckpointEntry))

    reference = weights(desk.folder)
    for settings in ({"enabled": False}, {"enabled": False, "workers": 2}):
        # Another script, and the same seed: enabled=False takes it from the run.
        desk.write(script(**settings), "other.py")
        again = desk.run(script="other.py")
        assert again.status == 0, again.output
        for name, tensor in weights(desk.folder).items():
            assert torch.equal(tensor, reference[name]), f"{settings}: {name} differs from the recorded training"


def test_a_killed_run_resumes_at_once_and_ends_with_the_bytes_of_an_unbroken_one(desk: Any, rows: Path) -> None:
    # The loader's workers outlive the killed process by seconds; they must not hold its lock.
    desk.write(script(workers=2).replace(LOOP, PAUSE))
    process = desk.start()
    deadline = time.monotonic() + 60
    while not (desk.folder / "marker").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run never reached step 7"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = entries(desk.folder)
    assert 3 <= len(before) < 8, "it was killed in the middle"
    again = desk.run()
    process.communicate()
    assert again.status == 0, again.output
    after = entries(desk.folder)
    assert after[: len(before)] == before
    interrupted = weights(desk.folder)

    desk.write(script(enabled=False), "other.py")
    assert desk.run(script="other.py").status == 0
    for name, tensor in weights(desk.folder).items():
        assert torch.equal(tensor, interrupted[name]), f"{name} differs after the resumption"
    assert [parse_entry(data).kind for data in after][-1] == "final"


LOOP = "for step, (x, y) in run.batches(workers=workers):"
PAUSE = f"""{LOOP}
            import pathlib
            if step == 7 and not pathlib.Path("marker").exists():
                pathlib.Path("marker").touch()
                time.sleep(60)"""


def test_a_finished_run_that_is_run_again_adds_nothing(desk: Any, rows: Path) -> None:
    desk.write(script())
    assert desk.run().status == 0
    before, note = entries(desk.folder), (desk.folder / "run" / "head.note").read_bytes()
    again = desk.run()
    assert again.status == 0, again.output
    assert entries(desk.folder) == before
    assert (desk.folder / "run" / "head.note").read_bytes() == note

    with Ledger(desk.folder / "run", desk.key):
        second = desk.run()
    assert second.status != 0
    assert "RunLockedError: another process is writing to" in second.said

    other = desk.folder / "other"
    other.mkdir()
    np.save(other / "rows.npy", np.load(rows)[::-1])
    swapped = desk.run(POLCHAIN_DATA=str(other))
    assert "DatasetError: the data is not the data that the run committed to" in swapped.said
    assert "DatasetError: the data cannot be read" in desk.run(POLCHAIN_DATA=str(desk.folder / "run")).said
    desk.write(script() + "# changed")
    changed = desk.run(POLCHAIN_DATA=str(other))
    assert "RecipeChangedError" in changed.said
    assert "started with another recipe: train.py" in changed.said
    assert entries(desk.folder) == before, "a refused run changes nothing"


TINY = (
    HEAD
    + """
    data = [(torch.tensor([i / 12, 1 - i / 12]), torch.tensor([float(i % 2)])) for i in range(12)]
    with polchain.record("run", data=data, batch_size=4, steps=9, every=3) as run:
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        BEFORE
        run.attach(model=model, optimizer=optimizer)
        for step, (x, y) in run.batches():
            loss = F.mse_loss(model(x), y)
            LOSS
            loss.backward()
            optimizer.step()
            AFTER
    """
)


def tiny(before: str = "pass", loss: str = "pass", after: str = "pass") -> str:
    def put(text: str, indent: int) -> str:
        return textwrap.dedent(text).strip().replace("\n", "\n" + " " * indent)

    return TINY.replace("BEFORE", put(before, 8)).replace("LOSS", put(loss, 12)).replace("AFTER", put(after, 12))


def test_what_was_not_attached_is_found_after_the_second_segment(desk: Any) -> None:
    desk.write(
        tiny(
            before="import copy; teacher = copy.deepcopy(model)",
            loss="loss = loss + F.mse_loss(model(x), teacher(x).detach())",
            after="for t, p in zip(teacher.parameters(), model.parameters()): t.data.lerp_(p.data, 0.1)",
        )
    )
    done = desk.run()
    assert done.status != 0
    assert "NotReproducedError: steps 3 to 6 do not replay: model differ, first model/bias" in done.said
    assert "something that crosses steps was not attached" in done.said
    assert len(entries(desk.folder)) == 5, "genesis, start, and the checkpoints of steps 0, 3 and 6"


def test_a_loop_that_asks_the_clock_is_found_after_the_first_segment(desk: Any) -> None:
    desk.write(tiny(loss="loss = loss * (1 + time.time() % 1)"))
    done = desk.run()
    assert "NotReproducedError: steps 0 to 3 do not replay: model differ" in done.said
    assert "two replays differ as well, so an operator or the loop is not deterministic" in done.said


def test_a_learning_rate_set_beside_a_scheduler_is_found_after_the_first_segment(desk: Any) -> None:
    text = tiny(
        before="scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)",
        after="scheduler.step(); optimizer.param_groups[0]['lr'] = 0.1 / (1 + step)",
    )
    desk.write(text.replace("optimizer=optimizer)", "optimizer=optimizer, scheduler=scheduler)"))
    done = desk.run()
    assert "NotReproducedError" in done.said
    assert "the state of step 3 is another one after it was put back: schedule/" in done.said


def test_a_recipe_that_reads_a_file_of_its_own_is_found_after_the_first_segment(desk: Any) -> None:
    (desk.folder / "secret.txt").write_text("3")
    desk.write(tiny(before='scale = float(open("secret.txt").read())'))
    done = desk.run()
    assert "NotReproducedError: steps 0 to " in done.said
    assert "secret.txt" in done.said


def test_a_key_that_is_missing_or_another_ones_is_refused(desk: Any) -> None:
    desk.write(tiny())
    missing = desk.run(POLCHAIN_KEY_FILE=str(desk.folder / "nowhere"))
    assert "KeyUnavailableError: no key at" in missing.said
    assert not (desk.folder / "run" / "ledger.db").exists()
    assert desk.run().status == 0
    from polchain.core.keys import PrivateKey
    from polchain.storage.keyfile import write_key

    write_key(desk.folder / "another", PrivateKey.generate(), None)
    wrong = desk.run(POLCHAIN_KEY_FILE=str(desk.folder / "another"))
    assert "KeyMismatchError" in wrong.said
