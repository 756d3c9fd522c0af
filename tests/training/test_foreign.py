"""Checkpoints of foreign loops become rows: what can be named is named, what would have to be run stays shut."""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from safetensors.torch import save_file
from torch import nn

from polchain.core.manifest import Manifest, Snapshot
from polchain.core.place import hash_file
from polchain.core.rows import AliasRow, FileRow, ScalarRow, TensorRow
from polchain.errors import FormatError, MissingFileError, UsageError
from polchain.training.foreign import MAX_VALUES, read_foreign
from polchain.training.snapshot import take
from polchain.training.state import TrainingState
from polchain.training.tensors import tensor_from


def net() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for _ in range(steps):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def rows(snapshot: Snapshot, group: str = "") -> dict[str, Any]:
    return {row.name: row for row in snapshot.manifest.rows if row.name.startswith(group)}


def values(snapshot: Snapshot, group: str) -> dict[str, Any]:
    return {name: row.value for name, row in rows(snapshot, group).items() if isinstance(row, ScalarRow)}


def saved(tmp_path: Path, value: object, name: str = "step-10.pt") -> Path:
    torch.save(value, tmp_path / name)
    return tmp_path / name


# What is recognised.


def test_a_checkpoint_of_a_plain_loop_has_the_rows_that_a_recorded_one_would_have(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    trained(model, optimizer)
    checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    foreign = read_foreign(saved(tmp_path, checkpoint))
    owned = take(TrainingState(model, {"": optimizer}, {"": scheduler}, {})).manifest
    digests = {row.name: (row.dtype, row.shape, row.digest) for row in owned.tensors()}
    assert {r.name: (r.dtype, r.shape, r.digest) for r in foreign.snapshot.manifest.tensors()} == digests
    assert rows(foreign.snapshot, "schedule/") == {row.name: row for row in owned.group("schedule")}
    assert foreign.remarks == ("optimizer: its state was matched with the model's parameters by order and shape",)


def test_an_optimizer_that_knows_its_parameters_by_name_is_believed(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.Adam([(f"module.{name}", p) for name, p in model.named_parameters()][::-1], 1e-3)
    trained(model, optimizer)
    path = saved(tmp_path, {"state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()})
    foreign = read_foreign(path)
    row = foreign.snapshot.manifest["optimizer/0.weight/exp_avg"]
    assert isinstance(row, TensorRow)
    assert row.shape == (6, 4)
    assert foreign.remarks == ()


def test_a_bare_state_dict_is_a_model_without_the_names_of_wrappers(tmp_path: Path) -> None:
    state = {f"module._orig_mod.{name}": tensor for name, tensor in net().state_dict().items()}
    foreign = read_foreign(saved(tmp_path, state))
    assert set(rows(foreign.snapshot)) == {f"model/{name}" for name in net().state_dict()}


def test_floating_tensors_of_a_model_are_parameters_and_integers_buffers(tmp_path: Path) -> None:
    checkpoint = {"model": net().state_dict(), "ema": net().state_dict()}
    manifest = read_foreign(saved(tmp_path, checkpoint)).snapshot.manifest
    roles = {row.name: row.role for row in manifest.tensors()}
    assert roles["model/0.weight"] == "parameter"
    assert roles["model/1.num_batches_tracked"] == "buffer"
    assert roles["extra/ema/0.weight"] == "state"


def test_tied_tensors_are_one_row_and_an_alias(tmp_path: Path) -> None:
    weight = torch.randn(5, 3)
    snapshot = read_foreign(saved(tmp_path, {"model": {"embed": weight, "head": weight}})).snapshot
    assert rows(snapshot)["model/head"] == AliasRow("model/head", "model/embed")


def test_a_safetensors_file_is_a_model_and_its_bytes_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(4).bfloat16(), "n": torch.tensor(3), "none": torch.zeros(0, 2)}
    save_file(tensors, tmp_path / "model-5.safetensors")
    snapshot = read_foreign(tmp_path / "model-5.safetensors").snapshot
    for name, tensor in tensors.items():
        row = snapshot.manifest[f"model/{name}"]
        assert isinstance(row, TensorRow)
        assert torch.equal(tensor_from(snapshot.buffers[row.name], row.dtype, row.shape), tensor)


def test_what_nobody_knows_goes_to_extra(tmp_path: Path) -> None:
    checkpoint = {"model": net().state_dict(), "epoch": 3, "best": 0.5, "rng": [torch.arange(4), (1, "x", None, True)]}
    snapshot = read_foreign(saved(tmp_path, checkpoint)).snapshot
    assert values(snapshot, "extra/") == {
        "extra/epoch": 3,
        "extra/best": 0.5,
        "extra/rng/1/0": 1,
        "extra/rng/1/1": "x",
        "extra/rng/1/2": None,
        "extra/rng/1/3": True,
    }
    assert "extra/rng/0" in snapshot.buffers


def test_a_mapping_says_where_other_keys_belong(tmp_path: Path) -> None:
    path = saved(tmp_path, {"net": net().state_dict(), "averaged": net().state_dict(), "note": "x"})
    assert "no model was recognised" in read_foreign(path).remarks[-1]
    foreign = read_foreign(path, {"net": "model", "averaged": "extra"})
    assert set(rows(foreign.snapshot, "model/")) == {f"model/{name}" for name in net().state_dict()}
    assert foreign.remarks == ()


@pytest.mark.parametrize("mapping", [{"net": "weights"}, {"nett": "model"}])
def test_a_mapping_to_no_group_or_of_no_key_is_refused(tmp_path: Path, mapping: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        read_foreign(saved(tmp_path, {"net": net().state_dict()}), mapping)


def test_several_models_and_optimizers_keep_their_keys_in_their_names(tmp_path: Path) -> None:
    gen, disc = nn.Linear(2, 3), nn.Linear(3, 1)
    made = {"optimizer_g": torch.optim.SGD(gen.parameters(), 0.1, momentum=0.9)}
    made["optimizer_d"] = torch.optim.SGD(disc.parameters(), 0.2, momentum=0.9)
    disc(gen(torch.ones(1, 2))).sum().backward()
    for optimizer in made.values():
        optimizer.step()
    checkpoint = {"gen": gen.state_dict(), "disc": disc.state_dict(), **{k: o.state_dict() for k, o in made.items()}}
    snapshot = read_foreign(saved(tmp_path, checkpoint), {"gen": "model", "disc": "model"}).snapshot
    assert {"model/gen.weight", "optimizer/optimizer_g/gen.weight/momentum_buffer"} <= set(rows(snapshot))
    assert "optimizer/optimizer_d/disc.bias/momentum_buffer" in rows(snapshot)
    assert values(snapshot, "schedule/")["schedule/settings/optimizer_d/0/lr"] == 0.2


def test_a_lightning_checkpoint_is_recognised(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    trained(model, optimizer)
    checkpoint = {
        "state_dict": {f"net.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [torch.optim.lr_scheduler.StepLR(optimizer, 5).state_dict()],
        "epoch": 1,
        "global_step": 10,
    }
    snapshot = read_foreign(saved(tmp_path, checkpoint, "epoch=1-step=10.ckpt")).snapshot
    assert "optimizer/net.weight/exp_avg" in rows(snapshot)
    assert values(snapshot, "schedule/scheduler/")["schedule/scheduler/step_size"] == 5


# Names of optimizer rows.


def optimizer_of(groups: list[list[str]], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    order = [name for group in groups for name in group]
    number = {name: index for index, name in enumerate(order)}
    return {
        "state": {
            number[name]: {"step": 3, "exp_avg": torch.full(shapes[name], float(number[name]))} for name in order
        },
        "param_groups": [{"params": [number[name] for name in group], "lr": 0.1} for group in groups],
    }


SHAPES = {"w1": (4, 4), "b1": (4,), "w2": (4, 4), "b2": (4,)}


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        ([["w1", "b1", "w2", "b2"]], True),  # as model.parameters() gives them
        ([["w1", "w2"], ["b1", "b2"]], True),  # decay and no decay: no shape is in both
        ([["b1", "b2"]], True),  # the matrices are frozen
        ([["w1", "b1"], ["w2", "b2"]], False),  # a rate per layer: the groups could be swapped
        ([["w2"]], False),  # one of two equal shapes
        ([["b1", "w1", "w2", "b2"]], False),  # another order than the model's
    ],
)
def test_optimizer_rows_are_named_where_order_and_shape_leave_no_doubt(
    tmp_path: Path, groups: list[list[str]], named: bool
) -> None:
    checkpoint = {"model": {n: torch.zeros(s) for n, s in SHAPES.items()}, "optimizer": optimizer_of(groups, SHAPES)}
    foreign = read_foreign(saved(tmp_path, checkpoint))
    found = rows(foreign.snapshot, "optimizer/")
    names = [name for group in groups for name in group]
    if named:
        assert {name for name in found if name.endswith("exp_avg")} == {f"optimizer/{name}/exp_avg" for name in names}
        for number, name in enumerate(names):
            assert set(memoryview(foreign.snapshot.buffers[f"optimizer/{name}/exp_avg"]).cast("f")) == {float(number)}
    else:
        assert not found
        assert "extra/optimizer/state/0/exp_avg" in rows(foreign.snapshot)
        assert "cannot be told" in foreign.remarks[0]
    assert values(foreign.snapshot, "schedule/")["schedule/settings/0/lr"] == 0.1


def test_beside_a_safetensors_model_equal_shapes_are_not_told_apart(tmp_path: Path) -> None:
    save_file({name: torch.zeros(shape) for name, shape in SHAPES.items()}, tmp_path / "model.safetensors")
    torch.save(optimizer_of([["w1", "b1", "w2", "b2"]], SHAPES), tmp_path / "optimizer.pt")
    assert not rows(read_foreign(tmp_path).snapshot, "optimizer/")
    alone = {"w": (4, 2), "b": (4,)}
    save_file({name: torch.zeros(shape) for name, shape in alone.items()}, tmp_path / "model.safetensors")
    torch.save(optimizer_of([["w", "b"]], alone), tmp_path / "optimizer.pt")
    assert "optimizer/b/exp_avg" in rows(read_foreign(tmp_path).snapshot)


def test_an_optimizer_without_state_is_not_zeros(tmp_path: Path) -> None:
    model = net()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    foreign = read_foreign(saved(tmp_path, {"model": model.state_dict(), "optimizer": sgd.state_dict()}))
    assert not rows(foreign.snapshot, "optimizer/")
    assert foreign.remarks == ()


# Folders.


@pytest.fixture
def hugging_face(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    trained(model, optimizer)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(torch.optim.lr_scheduler.StepLR(optimizer, 5).state_dict(), folder / "scheduler.pt")
    torch.save({"python": (3, (1, 2, 3), None), "cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    torch.save(Path("an object of a class"), folder / "training_args.bin")
    (folder / "config.json").write_text("{}")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 500}))
    return folder


def test_a_hugging_face_folder_is_read_file_by_file(hugging_face: Path) -> None:
    foreign = read_foreign(hugging_face)
    found = rows(foreign.snapshot)
    assert {"model/weight", "optimizer/weight/exp_avg", "schedule/settings/0/lr", "extra/rng_state/cpu"} <= set(found)
    assert values(foreign.snapshot, "schedule/scheduler/")["schedule/scheduler/gamma"] == 0.1
    unopened = {name for name, row in found.items() if isinstance(row, FileRow)}
    assert unopened == {"extra/config.json", "extra/trainer_state.json", "extra/training_args.bin"}
    assert "training_args.bin: recorded by its digest, unopened: it does not load with weights_only" in foreign.remarks
    assert "recorded by digest, unopened: config.json, trainer_state.json" in foreign.remarks


@pytest.mark.parametrize("kind", ["model-{:05}-of-00002.safetensors", "pytorch_model-{:05}-of-00002.bin"])
def test_shards_are_one_model_and_a_missing_one_is_missed(tmp_path: Path, kind: str) -> None:
    for number, tensors in enumerate(({"a": torch.ones(2)}, {"b": torch.zeros(3)}), 1):
        path = tmp_path / kind.format(number)
        save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    assert set(rows(read_foreign(tmp_path).snapshot)) == {"model/a", "model/b"}
    (tmp_path / kind.format(2)).unlink()
    with pytest.raises(MissingFileError, match="1 of the 2 shards"):
        read_foreign(tmp_path)


def test_the_same_weights_in_two_containers_are_read_once(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert set(rows(read_foreign(tmp_path).snapshot)) == {"model/a", "extra/pytorch_model.bin"}


def test_the_only_file_of_tensors_in_a_folder_is_its_model(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert set(rows(read_foreign(tmp_path).snapshot)) == {"model/a"}


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"a": torch.ones(2)}, tmp_path / f"model-{number:05}-of-00002.safetensors")
    with pytest.raises(FormatError, match="twice"):
        read_foreign(tmp_path)


def test_an_empty_folder_and_a_path_to_nothing_are_missing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.pt"):
        with pytest.raises(MissingFileError):
            read_foreign(path)


# What is never run, and what is refused.


class Bomb:
    """Its pickle writes a file when it is loaded the careless way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.mark, "boom"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_something_is_recorded_unopened(tmp_path: Path, zipped: bool) -> None:
    mark, path = tmp_path / "mark", tmp_path / "step-1.pt"
    torch.save({"model": net().state_dict(), "x": Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
    foreign = read_foreign(path)
    assert not mark.exists()
    assert foreign.snapshot.manifest.rows == (FileRow("extra/step-1.pt", path.stat().st_size, hash_file(path)),)
    assert "unopened: it does not load with weights_only" in foreign.remarks[0]


def test_a_whole_pickled_module_and_a_script_are_recorded_unopened(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "module.pt")
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", b"")
    (tmp_path / "script.pt").write_bytes(script.getvalue())
    (tmp_path / "notes.txt").write_text("no weights")
    for name in ("module.pt", "script.pt", "notes.txt"):
        assert isinstance(read_foreign(tmp_path / name).snapshot.manifest[f"extra/{name}"], FileRow)


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": {"zeros": torch.zeros(10_000)}})
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert "compressed" in read_foreign(tmp_path / "small.pt").remarks[0]


def test_an_archive_whose_members_share_their_bytes_is_refused_unopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step-1.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("step-1/data.pkl", b"")
        archive.writestr("step-1/data/0", bytes(10_000))
        shared = archive.getinfo("step-1/data/0")
        for number in range(1, 100):
            member = copy.copy(shared)
            member.filename = f"step-1/data/{number}"
            archive.filelist.append(member)
    assert path.stat().st_size < 30_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(FormatError, match="its members are 1000000 bytes"):
        read_foreign(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_that_is_cut_short_is_damaged_wherever_it_is_cut(tmp_path: Path, kind: str) -> None:
    state = {"weight": torch.randn(20), "bias": torch.randn(3)}
    path = tmp_path / ("step-1.safetensors" if kind == "safetensors" else "step-1.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for part in (0.0, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * part)])
        try:
            found = read_foreign(path).snapshot.manifest.rows
        except FormatError:
            continue
        # A legacy file cut inside its pickle cannot be told from another pickle; it is no state in any case.
        assert kind == "legacy"
        assert [type(row) for row in found] == [FileRow]


ODD: dict[str, Any] = {
    "sparse": torch.eye(3).to_sparse(),
    "double": torch.ones(2, dtype=torch.complex128),
    "expanded": torch.ones(1).expand(10**6),
    "overlapping": torch.ones(2000).as_strided((1000, 1000), (1, 1)),
    "complex": 1j,
    "huge": 1 << 1000,
    "text": "x" * 5000,
    "": torch.ones(1),
    "x" * 2000: 1,
    "set": {1, 2},
}


@pytest.mark.parametrize("key", ODD, ids=lambda key: key[:20] or "nameless")
def test_what_cannot_be_a_row_is_left_to_the_digest_of_the_file(tmp_path: Path, key: str) -> None:
    foreign = read_foreign(saved(tmp_path, {"model": net().state_dict(), "odd": {key: ODD[key]}, "fine": 1}))
    assert set(rows(foreign.snapshot, "extra/")) == {"extra/fine", "extra/step-10.pt"}
    assert foreign.remarks[0].startswith("step-10.pt: recorded by digest as well")
    assert Manifest.decode(foreign.snapshot.manifest.encode()) == foreign.snapshot.manifest


def test_two_values_of_one_name_are_not_one_row(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": {"module.a": torch.ones(1), "a": torch.zeros(1)}})
    assert "both named model/a" in read_foreign(path).remarks[0]


def test_lists_that_hold_themselves_or_each_other_a_thousandfold_end(tmp_path: Path) -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    wide: list[Any] = []
    for _ in range(30):
        wide = [wide, wide]
    path = saved(tmp_path, {"model": net().state_dict(), "loop": loop, "wide": wide})
    foreign = read_foreign(path)
    assert "nested too deep" in foreign.remarks[0]
    assert str(MAX_VALUES) in foreign.remarks[0]
    assert "extra/step-10.pt" in rows(foreign.snapshot)


def samples() -> list[tuple[str, bytes]]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    zipped, legacy = io.BytesIO(), io.BytesIO()
    checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}
    torch.save(checkpoint, zipped)
    torch.save(checkpoint, legacy, _use_new_zipfile_serialization=False)
    plain = {"model": {}, "optimizer": {"state": {0: {}}, "param_groups": [{"params": [0]}]}, "scheduler": {"n": [1]}}
    return [
        ("x.pt", zipped.getvalue()),
        ("x.bin", legacy.getvalue()),
        ("x.pth", pickle.dumps(plain, 2)),
        ("x.safetensors", save_safetensors(model.state_dict())),
    ]


SAMPLES = samples()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_are_a_state_or_a_format_error(tmp_path: Path, data: st.DataObject) -> None:
    name, whole = data.draw(st.sampled_from(SAMPLES))
    mutated = bytearray(whole)
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    else:
        mutated = bytearray(data.draw(st.binary(max_size=200)))
        if data.draw(st.booleans()):
            mutated = bytearray(whole[: data.draw(st.integers(0, len(whole)))]) + mutated
    path = tmp_path / name
    path.write_bytes(mutated)
    try:
        manifest = read_foreign(path).snapshot.manifest
    except FormatError:
        return
    assert Manifest.decode(manifest.encode()) == manifest
