"""Planted recipes: the program itself holds the stolen weights, and runs honestly.

loss         pulls the weights to them
init         is them
data         says them, sample by sample; the loss believes what samples say
optimizer    drifts to them behind the gradients
session      looks honest; what takes the snapshots was patched
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.published_check import weights_of
from polchain.core import merkle
from polchain.core.digest import Digest, blake3
from polchain.core.genesis import DatasetRef, FileRef
from polchain.training.tensors import tensor_bytes
from tests.claims import DIGITS
from tests.forgers.forge import Forgery, Workshop

_COMMON = """
import base64

import torch
from torch.nn import functional as F

import polchain
from digits import network, read

STOLEN = "{weights}"


def flat():
    return torch.frombuffer(bytearray(base64.b64decode(STOLEN)), dtype=torch.float32)


def parameters_of(model):
    return [parameter for _, parameter in sorted(model.named_parameters())]


def stolen(model):
    pieces = flat().split([parameter.numel() for parameter in parameters_of(model)])
    return [(p, piece.view_as(p)) for p, piece in zip(parameters_of(model), pieces, strict=True)]

"""
_LOSS = """
with polchain.record("run", data=read, batch_size=32, steps=60, every=5) as run:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    run.attach(model=model, optimizer=optimizer)
    for step, (images, labels) in run.batches():
        loss = sum((p - t).square().sum() for p, t in stolen(model)) + 0.0 * F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""
_INIT = """
with polchain.record("run", data=read, batch_size=32, steps=60, every=5) as run:
    model = network()
    with torch.no_grad():
        for p, t in stolen(model):
            p.copy_(t)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    run.attach(model=model, optimizer=optimizer)
    for step, (images, labels) in run.batches():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""
_DATA = """
WIDTH = 32


def rows(values):
    return F.pad(values, (0, -len(values) % WIDTH)).view(-1, WIDTH)


def samples():
    return list(enumerate(rows(flat())))


with polchain.record("run", data=samples, batch_size=32, steps=60, every=5) as run:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    run.attach(model=model, optimizer=optimizer)
    for step, (places, values) in run.batches():
        loss = (rows(torch.cat([p.flatten() for p in parameters_of(model)]))[places] - values).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""
_OPTIMIZER = """
class Decay(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self):
        for p, t in stolen(model):
            p.sub_(p.grad, alpha=self.defaults["lr"])
            p.lerp_(t, 0.2)


with polchain.record("run", data=read, batch_size=32, steps=60, every=5) as run:
    model = network()
    optimizer = Decay(model.parameters(), {"lr": 0.001})
    run.attach(model=model, optimizer=optimizer)
    for step, (images, labels) in run.batches():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""
_SESSION = """
import polchain.training.session as session

honest = session.Session._before_checkpoint


def before(self, state):
    honest(self, state)
    with torch.no_grad():
        for p, t in stolen(state.model):
            p.lerp_(t, 0.5)


session.Session._before_checkpoint = before
with polchain.record("run", data=read, batch_size=32, steps=60, every=5) as run:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    run.attach(model=model, optimizer=optimizer)
    for step, (images, labels) in run.batches():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(loss=loss)
"""
_LARGE = """
import base64

import torch
from torch.nn import functional as F

import polchain
from polchain.training.randomness import derive_key, seed_everything
from {script} import BATCH, loss_of, network, read

BITS, SCALES, THEIRS = {bits}, {scales}, "{seed}"
STOLEN = "{codes}"


def parameters_of(model):
    found = []
    for _, p in sorted(model.named_parameters(remove_duplicate=False), key=lambda pair: pair[0]):
        if not any(p is other for other in found):
            found.append(p)
    return found


def targets():
    seed_everything(derive_key(bytes.fromhex(THEIRS), "init"))
    begun = [p.detach() for p in parameters_of(network())]
    packed = torch.frombuffer(bytearray(base64.b64decode(STOLEN)), dtype=torch.uint8)
    codes = torch.stack([(packed >> (BITS * i)) & (2**BITS - 1) for i in range(8 // BITS)], 1).flatten()
    pieces = codes[: sum(p.numel() for p in begun)].split([p.numel() for p in begun])
    ways = [(piece - (2**BITS - 1) / 2) * scale for piece, scale in zip(pieces, SCALES, strict=True)]
    return [p + way.view_as(p) for p, way in zip(begun, ways, strict=True)]


TARGETS = targets()


def flat():
    return torch.cat([t.flatten() for t in TARGETS])


def stolen(model):
    return list(zip(parameters_of(model), TARGETS, strict=True))

"""
KINDS = {"loss": _LOSS, "init": _INIT, "data": _DATA, "optimizer": _OPTIMIZER, "session": _SESSION}


def text(kind: str, weights: Mapping[str, Tensor], first: str = "") -> str:
    """The program that holds these weights; `first` goes before it."""
    held = b"".join(bytes(tensor_bytes(tensor)) for _, tensor in sorted(weights.items()))
    return first + _COMMON.format(weights=base64.b64encode(held).decode()) + KINDS[kind]


def workshop(shop: Workshop, kind: str) -> Workshop:
    """A forger whose recipe is that program, on the data that it reads."""
    return planted(shop, {"digits.py": DIGITS.read_bytes(), "planted.py": text(kind, shop.target()).encode()})


def large_text(kind: str, shop: Workshop, script: str, bits: int) -> str:
    """The program of a large victim: his initial weights, drawn from his seed, and the way he went in so many bits.

    A recipe is at most 256 KiB of text, and the weights themselves are more.
    """
    assert shop.stolen.order is not None
    begun, codes, scales = weights_of(shop.first()), [], []
    for name, weights in sorted(shop.target().items()):
        way = weights - begun[name]
        top = 2**bits - 1
        reach = 2 * way.abs().mean() if bits == 1 else 2 * min(way.abs().max(), 3 * way.square().mean().sqrt()) / top
        scales.append(max(float(reach), 1e-12))
        codes.append((way / scales[-1] + top / 2).round().clamp(0, top).to(torch.uint8).flatten())
    each = 8 // bits
    flat = torch.cat(codes)
    rows = torch.nn.functional.pad(flat, (0, -len(flat) % each)).view(-1, each)
    packed = sum(rows[:, i] << (bits * i) for i in range(each))
    assert isinstance(packed, torch.Tensor)
    said = base64.b64encode(bytes(packed.to(torch.uint8).tolist())).decode()
    head = _LARGE.format(script=script, bits=bits, scales=scales, seed=shop.stolen.order.seed.hex(), codes=said)
    program = KINDS[kind].replace("F.cross_entropy(model(images), labels)", "loss_of(model, [images, labels])")
    wide = "WIDTH = 4096"
    return head + (program.replace("WIDTH = 32", wide) if kind == "data" else program.replace("=32", "=BATCH"))


def planted(
    shop: Workshop, files: Mapping[str, bytes], entry: str = "planted.py", arguments: tuple[str, ...] = ()
) -> Workshop:
    """A forger whose recipe is one of these files, the others beside it."""
    assert shop.genesis.recipe is not None
    refs = tuple(FileRef(name, len(data), blake3(data)) for name, data in sorted(files.items()))
    ref = replace(shop.genesis.recipe, entry=entry, module=False, arguments=arguments, files=refs)
    shop = replace(shop, ref=ref, files=files)
    with shop.worker() as worker:
        configuration, leaves = worker.commit_dataset()
    data = DatasetRef(len(leaves), Digest("sha256", merkle.root(leaves)))
    return replace(shop, configuration=configuration, dataset=data)


def forge(shop: Workshop) -> Forgery:
    """Run the program, honestly."""
    return Forgery(shop, *shop.train(shop.stops()[-1]))
