"""Whether a model is found in a state: other names, order, files, types and ties; and what only looks like it."""

from __future__ import annotations

import math

import torch

from polchain.core.digest import blake3
from polchain.core.manifest import Manifest, Snapshot
from polchain.core.rows import TensorRow
from polchain.training.matching import constant_rows, match, parameters, same_values
from polchain.training.tensors import DTYPE_NAMES, tensor_bytes

SOURCE = torch.Generator().manual_seed(5)
TENSORS = {"fc.weight": torch.randn(16, 32, generator=SOURCE), "fc.bias": torch.randn(16, generator=SOURCE)}


def state(tensors: dict[str, torch.Tensor], group: str = "model", role: str = "parameter") -> Snapshot:
    rows, buffers = [], {}
    for name, tensor in tensors.items():
        data = memoryview(bytearray(tensor_bytes(tensor)))
        named = f"{group}/{name}"
        rows.append(TensorRow(named, role, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), blake3(data)))
        buffers[named] = data
    return Snapshot(Manifest.of(rows), buffers)


def test_names_order_prefixes_and_ties_do_not_matter() -> None:
    model = state(TENSORS)
    found = match(model, state({f"net.{name}": TENSORS[name] for name in reversed(TENSORS)}), 0.0)
    assert found.exact, "a prefix and another order hide nothing"
    tied = {**TENSORS, "head.weight": TENSORS["fc.weight"]}
    assert match(state(tied), model, 0.0).exact, "what one writes twice, the other may write once"
    assert match(model, state(tied), 0.0).exact
    assert match(model, state(TENSORS, "extra", "state"), 0.0).exact, "an average beside the model is a state too"


def test_a_coarser_type_of_the_same_weights_is_the_same() -> None:
    for kind in (torch.bfloat16, torch.float16):
        export = state({name: tensor.to(kind) for name, tensor in TENSORS.items()})
        assert match(export, state(TENSORS), 1e-9).exact
    assert match(state({name: tensor.double() for name, tensor in TENSORS.items()}), state(TENSORS), 0.0).exact


def test_a_few_bits_of_a_model_are_not_the_model() -> None:
    for kind in (torch.bfloat16, torch.float8_e5m2):
        rounded = {name: tensor.to(kind) for name, tensor in TENSORS.items()}
        assert not match(state(TENSORS), state(rounded), 1e-4).found, "a log of fewer bits than the file has"
        assert match(state({name: tensor.float() for name, tensor in rounded.items()}), state(rounded), 0.0).exact


def test_a_tensor_without_a_number_is_constant() -> None:
    tensors = {"a": torch.full((4,), math.nan), "b": torch.ones(4), "c": torch.tensor([1.0, math.nan])}
    diverged = state(tensors)
    assert constant_rows(diverged, diverged.manifest.tensors()) == {"model/a", "model/b"}


def test_within_the_distance_is_said_and_beyond_it_is_not_found() -> None:
    near = state({name: tensor * (1 + 5e-4) for name, tensor in TENSORS.items()})
    found = match(near, state(TENSORS), 1e-3)
    assert found.found
    assert not found.exact
    assert math.isclose(found.worst, 5e-4, rel_tol=0.01)
    assert not match(near, state(TENSORS), 1e-4).found
    one_off = {**TENSORS, "fc.bias": TENSORS["fc.bias"] + 1.0}
    assert match(state(one_off), state(TENSORS), 1e-3).tensor == "model/fc.bias", "every tensor by itself"


def test_every_tensor_must_be_there_but_the_state_may_have_more() -> None:
    more = state({**TENSORS, "extra.weight": torch.ones(3)})
    assert match(state(TENSORS), more, 0.0).found
    assert not match(more, state(TENSORS), 0.5).found
    assert not match(state({}), more, 0.5).found, "a model without tensors is found nowhere"


def test_not_a_number_is_near_nothing() -> None:
    broken = state({**TENSORS, "fc.bias": torch.full((16,), math.nan)})
    assert not match(broken, state(TENSORS), 0.9).found
    assert not match(state(TENSORS), broken, 0.9).found


def test_of_manifests_alone_only_equal_digests_are_found() -> None:
    assert match(state(TENSORS), state(TENSORS).manifest, 1e-3).exact
    found = match(state({name: tensor * 1.0001 for name, tensor in TENSORS.items()}), state(TENSORS).manifest, 1e-3)
    assert (found.found, found.unread) == (False, True)


def test_permuted_and_rescaled_copies_have_the_same_sorted_values() -> None:
    weight = TENSORS["fc.weight"]
    copy = {**TENSORS, "fc.weight": -3.0 * weight[torch.randperm(16, generator=SOURCE)]}
    assert not match(state(TENSORS), state(copy), 1e-3).found
    assert same_values(state(TENSORS), state(copy), 1e-3)
    other = {**TENSORS, "fc.weight": torch.randn(16, 32, generator=SOURCE)}
    assert not same_values(state(TENSORS), state(other), 1e-3), "another model has other values"
    constant = {"fc.weight": torch.ones(16, 32)}
    assert not same_values(state(constant), state(constant), 1e-3), "a constant tensor says nothing"


def test_no_copy_within_the_distance_is_lost_to_what_spares_sorting() -> None:
    """What is compared first, the largest value and the mean, may only rule out what sorting would rule out too."""
    weight = TENSORS["fc.weight"]
    found = 0
    for exponent in torch.linspace(-6, -1, 41).tolist():
        noise = 10**exponent * torch.randn(16, 32, generator=SOURCE)
        for other in (weight + noise, weight * (1 + 10**exponent), weight + 10**exponent):
            a, b = (t.double().flatten().abs().sort().values for t in (weight, other))
            gap = float((a / a.norm() - b / b.norm()).norm())
            for distance in (gap * (1 + 1e-6), gap * (1 - 1e-6)):
                said = same_values(state({"a": weight}), state({"a": other}), distance)
                assert said == (gap <= distance), f"{gap} apart, {distance} asked for"
                found += said
    assert 100 < found < 200


def test_constant_rows_are_known() -> None:
    made = state({"a": torch.ones(4), "b": torch.arange(4.0), "c": torch.zeros(0)})
    assert constant_rows(made, made.manifest.tensors()) == {"model/a", "model/c"}
    assert [row.name for row in parameters(made.manifest)] == ["model/a", "model/b"]
